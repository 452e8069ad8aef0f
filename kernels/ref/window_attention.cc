// DeepSeek-V4's attention over window and compressed entries, with sinks. Sums in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/compressed_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

// What row `index` of the spans (position t) attends to: vectors [*, dim].
std::vector<float> vectors_of(const WindowAttentionArgs& args, const SequenceSpan& span, int32_t t, int64_t index) {
  std::vector<float> vectors;
  const auto append = [&](std::byte* entry, DType dtype) {
    vectors.resize(vectors.size() + static_cast<size_t>(args.dim));
    widen_to_f32({entry, dtype, Shape{args.dim}}, 0, args.dim, vectors.data() + vectors.size() - args.dim);
  };
  for (int32_t s = std::max(0, t - args.window + 1); s <= t; ++s)
    append(entry_of(args.cache, span.pages, s, args.dim), args.cache.dtype);
  if (args.compressed.ratio == 0) return vectors;
  const int32_t complete = (t + 1) / args.compressed.ratio;
  const auto append_compressed = [&](int32_t w) {
    SLUICE_CHECK(w >= 0 && w < complete, "entry {} of {}", w, complete);
    append(entry_of(args.compressed, span.pages, w, args.dim), args.compressed.entries.dtype);
  };
  if (args.selected) {
    for (int32_t j = 0; j < args.num_selected; ++j) append_compressed(args.selected[index * args.num_selected + j]);
  } else {
    for (int32_t w = 0; w < complete; ++w) append_compressed(w);
  }
  return vectors;
}

void attend(const WindowAttentionArgs& args, const float* q, float sink, const std::vector<float>& vectors,
            float* out) {
  const auto dim = static_cast<size_t>(args.dim);
  std::vector<double> weights;
  double peak = sink;
  for (size_t at = 0; at < vectors.size(); at += dim) {
    double score = 0;
    for (size_t i = 0; i < dim; ++i) score += double{q[i]} * vectors[at + i];
    weights.push_back(score * args.scale);
    peak = std::max(peak, weights.back());
  }
  double sum = std::exp(sink - peak);
  for (double& weight : weights) sum += weight = std::exp(weight - peak);
  for (size_t i = 0; i < dim; ++i) {
    double mixed = 0;
    for (size_t j = 0; j < weights.size(); ++j) mixed += weights[j] * vectors[j * dim + i];
    out[i] = static_cast<float>(mixed / sum);
  }
}

}  // namespace

void window_attention(const WindowAttentionArgs& args, OpContext& context) {
  int64_t index = 0;
  std::vector<float> back(static_cast<size_t>(args.rope_dim));  // the row's angles, turned round
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t t = span.position_begin; t < span.position_end; ++t, ++index) {
      const int64_t row = span.row_begin + t - span.position_begin;
      const std::vector<float> vectors = vectors_of(args, span, t, index);
      float* out = args.out + row * args.heads * args.dim;
      for (int32_t head = 0; head < args.heads; ++head)
        attend(args, args.q + (row * args.heads + head) * args.dim, args.sinks[head], vectors, out + head * args.dim);
      std::copy_n(args.cos_sin + row * args.rope_dim, args.rope_dim, back.begin());
      for (size_t i = back.size() / 2; i < back.size(); ++i) back[i] = -back[i];
      rope({.x = out,
            .cos_sin = back.data(),
            .rows = 1,
            .heads = args.heads,
            .head_dim = args.dim,
            .offset = args.dim - args.rope_dim,
            .dim = args.rope_dim,
            .layout = RopeLayout::kPair},
           context);
    }
  }
}

}  // namespace sluice::ref
