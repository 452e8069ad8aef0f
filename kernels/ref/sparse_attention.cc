// Latent attention over chosen positions, and the scattering of its rows. Sums in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/latent_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

// One head of one row: query [kv_lora_rank + rope_dim], entries [num_positions, kv_lora_rank + rope_dim].
void attend(const SparseAttentionArgs& args, const std::vector<float>& query, const std::vector<float>& entries,
            float* latent) {
  const size_t width = query.size();
  std::vector<double> weights;
  for (int32_t j = 0; j < args.num_positions; ++j) {
    double score = 0;
    for (size_t i = 0; i < width; ++i) score += double{query[i]} * entries[static_cast<size_t>(j) * width + i];
    weights.push_back(score * args.scale);
  }
  const double peak = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - peak);
  for (int32_t i = 0; i < args.kv_lora_rank; ++i) {
    double mixed = 0;
    for (size_t j = 0; j < weights.size(); ++j) mixed += weights[j] * entries[j * width + static_cast<size_t>(i)];
    latent[i] = static_cast<float>(mixed / sum);
  }
}

}  // namespace

void sparse_attention(const SparseAttentionArgs& args, OpContext&) {
  const int32_t width = args.kv_lora_rank + args.rope_dim;
  const int32_t q_dim = args.nope_dim + args.rope_dim;
  int64_t num_rows = 0;
  for (const SequenceSpan& span : args.sequences) num_rows += span.position_end - span.position_begin;
  std::vector<float> entries(static_cast<size_t>(args.num_positions) * static_cast<size_t>(width));
  std::vector<float> query(static_cast<size_t>(width));
  int64_t index = 0;
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t t = span.position_begin; t < span.position_end; ++t, ++index) {
      for (int32_t j = 0; j < args.num_positions; ++j)
        widen_to_f32({entry_of(args.cache, span.pages, args.positions[index * args.num_positions + j], width),
                      args.cache.dtype, Shape{width}},
                     0, width, entries.data() + int64_t{j} * width);
      const int64_t row = span.row_begin + t - span.position_begin;
      for (int32_t head = 0; head < args.heads; ++head) {
        const int64_t at = (head * num_rows + index) * args.kv_lora_rank;
        std::copy_n(args.absorbed + at, args.kv_lora_rank, query.begin());
        std::copy_n(args.q + (row * args.heads + head) * q_dim + args.nope_dim, args.rope_dim,
                    query.begin() + args.kv_lora_rank);
        attend(args, query, entries, args.latents + at);
      }
    }
  }
}

void scatter_rows(const ScatterRowsArgs& args, OpContext&) {
  for (int64_t i = 0; i < args.rows; ++i)
    std::copy_n(args.x + i * args.cols, args.cols, args.y + args.row_ids[i] * args.cols);
}

}  // namespace sluice::ref
