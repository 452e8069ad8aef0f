#include "model/config_qwen3.h"

#include "model/config_ranges.h"

namespace sluice {

namespace {

void read_attention(JsonFields& fields, ModelConfig& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", {1, kHeadsEnd});
  const int32_t heads = config.num_attention_heads;
  GroupedConfig grouped;
  grouped.kv_heads = fields.integer("num_key_value_heads", {1, kHeadsEnd});
  grouped.head_dim = fields.integer_or("head_dim", config.hidden_size / std::max(heads, 1), {1, kHeadDimEnd});
  if (grouped.kv_heads > 0 && heads % grouped.kv_heads != 0)
    fields.refuse(StatusCode::kInvalidArgument, "num_key_value_heads",
                  fmt::format("a divisor of num_attention_heads ({})", heads));
  if (grouped.head_dim % 2 != 0) fields.refuse(StatusCode::kInvalidArgument, "head_dim", "an even integer");
  if (fields.flag_or("use_sliding_window", false))
    fields.refuse(StatusCode::kFailedPrecondition, "use_sliding_window", "false");
  config.qk_rope_head_dim = config.v_head_dim = grouped.head_dim;
  config.rope_interleave = false;
  config.grouped = grouped;
}

// Which layers are dense: every one of mlp_only_layers, and those that decoder_sparse_step passes over.
void read_dense_layers(JsonFields& fields, ModelConfig& config) {
  const int32_t step = fields.integer_or("decoder_sparse_step", 1, {1, kLayersEnd});
  const std::vector<int32_t> listed = fields.integers_or_none("mlp_only_layers", {0, kLayersEnd});
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer)
    if ((layer + 1) % step != 0 || std::find(listed.begin(), listed.end(), layer) != listed.end())
      config.dense_layers.push_back(layer);
}

}  // namespace

void read_qwen3_moe(JsonFields& fields, ModelConfig& config) {
  read_attention(fields, config);
  config.n_routed_experts = fields.integer("num_experts", {1, kExpertsEnd});
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", {1, kExpertsEnd});
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", {1, kWidthEnd});
  // The class's own default differs from that of every released file, so a missing key must not decide.
  config.norm_topk_prob = fields.flag("norm_topk_prob");
  if (config.num_experts_per_tok > config.n_routed_experts)
    fields.refuse(StatusCode::kInvalidArgument, "num_experts_per_tok",
                  fmt::format("at most num_experts ({})", config.n_routed_experts));
  read_dense_layers(fields, config);
}

}  // namespace sluice
