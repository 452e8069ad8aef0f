// The latent cache and its attention, in the two forms of arXiv:2405.04434 (2.1 and appendix C).
#include <algorithm>
#include <cmath>
#include <vector>

#include "sluice/quantize.h"

#include "kernels/ref/latent_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

void load_codes(const LatentCache& cache, const PageId* pages, int32_t position, const LatentCodes& layout,
                float* out) {
  const CodeEntry entry(cache, pages, position, layout);
  for (int32_t g = 0; g < layout.num_groups(); ++g)
    for (int32_t i = layout.begin(g); i < layout.begin(g + 1); ++i)
      out[i] = entry.scales[g * kPageTokens] * static_cast<float>(entry.codes[i] - LatentCodes::kExcess);
}

void store_codes(const LatentCache& cache, const PageId* pages, int32_t position, const LatentCodes& layout,
                 const float* values) {
  const CodeEntry entry(cache, pages, position, layout);
  std::vector<int8_t> codes(static_cast<size_t>(layout.width()));
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const int32_t begin = layout.begin(g), count = layout.begin(g + 1) - begin;
    entry.scales[g * kPageTokens] = quantize_activations(values + begin, count, codes.data() + begin);
  }
  std::transform(codes.begin(), codes.end(), entry.codes,
                 [](int8_t code) { return static_cast<uint8_t>(code + LatentCodes::kExcess); });
}

// All entries of positions [0, count), widened: [count, width].
std::vector<float> load_entries(const LatentAttentionArgs& args, const PageId* pages, int32_t count) {
  const LatentCache& cache = args.cache;
  const LatentCodes layout{args.kv_lora_rank, args.rope_dim};
  const int32_t width = layout.width();
  std::vector<float> entries(static_cast<size_t>(count) * static_cast<size_t>(width));
  for (int32_t position = 0; position < count; ++position) {
    float* out = entries.data() + static_cast<int64_t>(position) * width;
    if (cache.dtype == DType::kI8) {
      load_codes(cache, pages, position, layout, out);
      continue;
    }
    widen_to_f32({entry_of(cache, pages, position, width), cache.dtype, Shape{width}}, 0, width, out);
  }
  return entries;
}

void softmax(std::vector<double>& scores) {
  const double peak = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double& score : scores) sum += score = std::exp(score - peak);
  for (double& score : scores) score /= sum;
}

// o = V (sum_s p_s c_s)  =  sum_s p_s (V c_s)
template <typename Value>
void weighted_values(const std::vector<double>& weights, int32_t dim, Value&& value_at, float* out) {
  for (int32_t i = 0; i < dim; ++i) {
    double sum = 0;
    for (size_t s = 0; s < weights.size(); ++s) sum += weights[s] * value_at(s, i);
    out[i] = static_cast<float>(sum);
  }
}

// y[i] = sum_j W[i, j] x[j]
std::vector<double> multiply(const Weight& weight, const double* x) {
  std::vector<double> y(static_cast<size_t>(weight.rows), 0.0);
  for (int64_t i = 0; i < weight.rows; ++i)
    for (int64_t j = 0; j < weight.cols; ++j) y[static_cast<size_t>(i)] += double{weight_at(weight, i, j)} * x[j];
  return y;
}

}  // namespace

void latent_write(const LatentWriteArgs& args, OpContext& context) {
  const int32_t width = args.kv_lora_rank + args.rope_dim;
  std::vector<float> entry(static_cast<size_t>(width));
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      const int64_t row = span.row_begin + position - span.position_begin;
      const float* z = args.z + row * width;
      rms_norm({.x = z,
                .weight = args.norm_weight,
                .y = entry.data(),
                .rows = 1,
                .cols = args.kv_lora_rank,
                .x_stride = width,
                .eps = args.eps},
               context);
      std::copy(z + args.kv_lora_rank, z + width, entry.begin() + args.kv_lora_rank);
      rope({.x = entry.data() + args.kv_lora_rank,
            .cos_sin = args.cos_sin + row * args.rope_dim,
            .rows = 1,
            .heads = 1,
            .head_dim = args.rope_dim,
            .offset = 0,
            .dim = args.rope_dim,
            .layout = args.layout},
           context);
      if (args.cache.dtype == DType::kI8) {
        store_codes(args.cache, span.pages, position, {args.kv_lora_rank, args.rope_dim}, entry.data());
        continue;
      }
      std::byte* target = entry_of(args.cache, span.pages, position, width);
      for (int32_t i = 0; i < width; ++i) store(target, args.cache.dtype, i, entry[static_cast<size_t>(i)]);
    }
  }
}

void latent_attention_expanded(const LatentAttentionArgs& args, OpContext&) {
  const int32_t width = args.kv_lora_rank + args.rope_dim;
  const int32_t q_dim = args.nope_dim + args.rope_dim;
  for (const SequenceSpan& span : args.sequences) {
    const std::vector<float> entries = load_entries(args, span.pages, span.position_end);
    for (int32_t head = 0; head < args.heads; ++head) {
      std::vector<std::vector<double>> keys, values;  // [positions][nope_dim], [positions][v_dim]
      for (int32_t s = 0; s < span.position_end; ++s) {
        const float* entry = entries.data() + static_cast<int64_t>(s) * width;
        const std::vector<double> latent(entry, entry + args.kv_lora_rank);
        keys.push_back(multiply(args.k_up[static_cast<size_t>(head)], latent.data()));
        values.push_back(multiply(args.v_up[static_cast<size_t>(head)], latent.data()));
      }
      for (int32_t t = span.position_begin; t < span.position_end; ++t) {
        const int64_t row = span.row_begin + t - span.position_begin;
        const float* q = args.q + (row * args.heads + head) * q_dim;
        std::vector<double> scores;
        for (int32_t s = 0; s <= t; ++s) {
          double score = 0;
          const float* rope_key = entries.data() + static_cast<int64_t>(s) * width + args.kv_lora_rank;
          for (int32_t i = 0; i < args.nope_dim; ++i)
            score += q[i] * keys[static_cast<size_t>(s)][static_cast<size_t>(i)];
          for (int32_t i = 0; i < args.rope_dim; ++i) score += double{q[args.nope_dim + i]} * rope_key[i];
          scores.push_back(score * args.scale);
        }
        softmax(scores);
        weighted_values(
            scores, args.v_dim, [&](size_t s, int32_t i) { return values[s][static_cast<size_t>(i)]; },
            args.out + (row * args.heads + head) * args.v_dim);
      }
    }
  }
}

void latent_attention_absorbed(const LatentAttentionArgs& args, OpContext&) {
  const int32_t width = args.kv_lora_rank + args.rope_dim;
  const int32_t q_dim = args.nope_dim + args.rope_dim;
  for (const SequenceSpan& span : args.sequences) {
    const std::vector<float> entries = load_entries(args, span.pages, span.position_end);
    for (int32_t head = 0; head < args.heads; ++head) {
      for (int32_t t = span.position_begin; t < span.position_end; ++t) {
        const int64_t row = span.row_begin + t - span.position_begin;
        const float* q = args.q + (row * args.heads + head) * q_dim;
        const std::vector<double> q_nope(q, q + args.nope_dim);
        std::vector<double> absorbed = multiply(args.k_up_t[static_cast<size_t>(head)], q_nope.data());
        absorbed.insert(absorbed.end(), q + args.nope_dim, q + q_dim);  // [kv_lora_rank + rope_dim]
        std::vector<double> scores;
        for (int32_t s = 0; s <= t; ++s) {
          double score = 0;
          for (int32_t i = 0; i < width; ++i)
            score += absorbed[static_cast<size_t>(i)] *
                     entries[static_cast<size_t>(s) * static_cast<size_t>(width) + static_cast<size_t>(i)];
          scores.push_back(score * args.scale);
        }
        softmax(scores);
        std::vector<float> latent(static_cast<size_t>(args.kv_lora_rank));
        weighted_values(
            scores, args.kv_lora_rank,
            [&](size_t s, int32_t i) { return entries[s * static_cast<size_t>(width) + static_cast<size_t>(i)]; },
            latent.data());
        const std::vector<double> mixed(latent.begin(), latent.end());
        const std::vector<double> out = multiply(args.v_up[static_cast<size_t>(head)], mixed.data());
        std::copy(out.begin(), out.end(), args.out + (row * args.heads + head) * args.v_dim);
      }
    }
  }
}

}  // namespace sluice::ref
