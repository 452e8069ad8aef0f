// The lightning indexer (DeepSeek-V3.2): its keys and its choice. Sums in double.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/ref/compressed_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

void layer_norm(const float* z, const IndexWriteArgs& args, float* y) {
  const int32_t dim = args.head_dim;
  double mean = 0, variance = 0;
  for (int32_t i = 0; i < dim; ++i) mean += z[i];
  mean /= dim;
  for (int32_t i = 0; i < dim; ++i) variance += (z[i] - mean) * (z[i] - mean);
  const double factor = 1 / std::sqrt(variance / dim + args.eps);
  for (int32_t i = 0; i < dim; ++i)
    y[i] = static_cast<float>((z[i] - mean) * factor * args.norm_weight[i] + args.norm_bias[i]);
}

double score_of(const IndexSelectArgs& args, int64_t row, const float* key) {
  double sum = 0;
  for (int32_t head = 0; head < args.heads; ++head) {
    const float* q = args.q + (row * args.heads + head) * args.head_dim;
    double dot = 0;
    for (int32_t i = 0; i < args.head_dim; ++i) dot += double{q[i]} * key[i];
    sum += args.weights[row * args.heads + head] * std::max(0.0, dot);
  }
  return sum;
}

}  // namespace

void index_write(const IndexWriteArgs& args, OpContext& context) {
  std::vector<float> key(static_cast<size_t>(args.head_dim));
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      const int64_t row = span.row_begin + position - span.position_begin;
      layer_norm(args.z + row * args.head_dim, args, key.data());
      rope({.x = key.data(),
            .cos_sin = args.cos_sin + row * args.rope_dim,
            .rows = 1,
            .heads = 1,
            .head_dim = args.head_dim,
            .offset = 0,
            .dim = args.rope_dim,
            .layout = args.layout},
           context);
      std::byte* target = entry_of(args.cache, span.pages, position, args.head_dim);
      for (int32_t i = 0; i < args.head_dim; ++i) store(target, args.cache.dtype, i, key[static_cast<size_t>(i)]);
    }
  }
}

void index_select(const IndexSelectArgs& args, OpContext&) {
  std::vector<float> key(static_cast<size_t>(args.head_dim));
  int32_t* out = args.positions;
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t t = span.position_begin; t < span.position_end; ++t, out += args.top_k) {
      const int32_t complete = (t + 1) / args.ratio;
      SLUICE_CHECK(complete >= args.top_k, "position {} has fewer than {} candidates", t, args.top_k);
      std::vector<double> scores;
      for (int32_t s = 0; s < complete; ++s) {
        widen_to_f32({entry_of(CompressedCache{args.cache, args.ratio}, span.pages, s, args.head_dim), args.cache.dtype,
                      Shape{args.head_dim}},
                     0, args.head_dim, key.data());
        scores.push_back(score_of(args, span.row_begin + t - span.position_begin, key.data()));
      }
      std::vector<int32_t> order(scores.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
        return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
      });
      std::copy_n(order.begin(), args.top_k, out);
      std::sort(out, out + args.top_k);
    }
  }
}

}  // namespace sluice::ref
