#include "app/bench/traffic.h"

#include "model/checkpoint.h"
#include "model/inspect.h"

namespace sluice {

WeightTraffic weight_traffic(const ModelConfig& config, WeightFormat weights) {
  WeightTraffic traffic;
  const WeightFormat wide = weights == WeightFormat::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
  // All routed experts have one shape; the three matrices of the first one are counted.
  const std::string one_expert = fmt::format("layers.{}.mlp.experts.0.", config.first_k_dense_replace);
  for (const TensorSpec& spec : required_tensors(config)) {
    const bool embedding = spec.name == "model.embed_tokens.weight";
    if (spec.shape.rank < 2) {
      traffic.dense_bytes += spec.shape.num_elements() * 4;  // vectors are kept in f32
    } else if (spec.name.find(".mlp.experts.") != std::string::npos) {
      if (spec.name.find(one_expert) != std::string::npos)
        traffic.expert_bytes += weight_bytes(weights, spec.shape[0], spec.shape[1]);
    } else if (!embedding || config.tie_word_embeddings) {  // else the embedding is looked up, a row a token
      const bool stays_wide = spec.name.ends_with(".mlp.gate.weight") || spec.name.ends_with(".kv_b_proj.weight");
      traffic.dense_bytes += weight_bytes(stays_wide ? wide : weights, spec.shape[0], spec.shape[1]);
    }
  }
  traffic.head_operations = int64_t{2} * config.vocab_size * config.hidden_size;
  traffic.token_operations = inspect(config).flop_per_token - traffic.head_operations;
  return traffic;
}

}  // namespace sluice
