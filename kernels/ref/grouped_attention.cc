// Grouped-query attention over cached keys and values. Sums in double; both roles are one loop here.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/latent_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

// Head `group` of the entries of positions [0, count), widened: [count, head_dim].
std::vector<float> load_head(const LatentCache& cache, const GroupedAttentionArgs& args, const PageId* pages,
                             int32_t count, int32_t group) {
  const int32_t dim = args.head_dim, width = args.kv_heads * dim;
  std::vector<float> rows(static_cast<size_t>(count) * static_cast<size_t>(dim));
  for (int32_t position = 0; position < count; ++position)
    widen_to_f32({entry_of(cache, pages, position, width), cache.dtype, Shape{width}}, group * dim, dim,
                 rows.data() + static_cast<int64_t>(position) * dim);
  return rows;
}

// One query over positions [0, count).
void attend(const GroupedAttentionArgs& args, const float* q, const std::vector<float>& keys,
            const std::vector<float>& values, int32_t count, float* out) {
  const auto dim = static_cast<size_t>(args.head_dim);
  std::vector<double> weights(static_cast<size_t>(count));
  for (size_t s = 0; s < weights.size(); ++s) {
    double score = 0;
    for (size_t i = 0; i < dim; ++i) score += double{q[i]} * keys[s * dim + i];
    weights[s] = score * args.scale;
  }
  const double peak = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - peak);
  for (size_t i = 0; i < dim; ++i) {
    double mixed = 0;
    for (size_t s = 0; s < weights.size(); ++s) mixed += weights[s] * values[s * dim + i];
    out[i] = static_cast<float>(mixed / sum);
  }
}

}  // namespace

void key_value_write(const KeyValueWriteArgs& args, OpContext&) {
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      const int64_t row = span.row_begin + position - span.position_begin;
      std::byte* key = entry_of(args.keys, span.pages, position, args.width);
      std::byte* value = entry_of(args.values, span.pages, position, args.width);
      for (int32_t i = 0; i < args.width; ++i) {
        store(key, args.keys.dtype, i, args.k[row * args.width + i]);
        store(value, args.values.dtype, i, args.v[row * args.width + i]);
      }
    }
  }
}

void grouped_attention_prompt(const GroupedAttentionArgs& args, OpContext&) {
  const int32_t heads_each = args.heads / args.kv_heads;
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t group = 0; group < args.kv_heads; ++group) {
      const std::vector<float> keys = load_head(args.keys, args, span.pages, span.position_end, group);
      const std::vector<float> values = load_head(args.values, args, span.pages, span.position_end, group);
      for (int32_t t = span.position_begin; t < span.position_end; ++t) {
        const int64_t row = span.row_begin + t - span.position_begin;
        for (int32_t head = group * heads_each; head < (group + 1) * heads_each; ++head) {
          const int64_t at = (row * args.heads + head) * args.head_dim;
          attend(args, args.q + at, keys, values, t + 1, args.out + at);
        }
      }
    }
  }
}

void grouped_attention_generated(const GroupedAttentionArgs& args, OpContext& context) {
  grouped_attention_prompt(args, context);
}

}  // namespace sluice::ref
