#include "model/config_v4.h"

#include <algorithm>

#include "model/config_ranges.h"

namespace sluice {

namespace {

constexpr int64_t kStreamsEnd = 17;  // of hyper-connections; 4 in every released model
constexpr int64_t kIterationsEnd = 1001;

// Keys with one value that we know; another is not an error of the file.
void expect_text(JsonFields& fields, const char* key, const char* known, const ModelConfig& config) {
  if (fields.text_or(key, known) != known)
    fields.refuse(StatusCode::kFailedPrecondition, key, fmt::format("\"{}\" with {}", known, config.model_type));
}

void read_attention(JsonFields& fields, ModelConfig& config, HybridConfig& hybrid) {
  config.num_attention_heads = fields.integer("num_attention_heads", {1, kHeadsEnd});
  if (fields.integer("num_key_value_heads", {1, kHeadsEnd}) != 1)
    fields.refuse(StatusCode::kFailedPrecondition, "num_key_value_heads", "1 with " + config.model_type);
  config.q_lora_rank = fields.integer("q_lora_rank", {1, kWidthEnd});
  config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", {1, kHeadDimEnd});
  hybrid.head_dim = fields.integer("head_dim", {1, kHeadDimEnd});
  hybrid.o_groups = fields.integer("o_groups", {1, kHeadsEnd});
  hybrid.o_lora_rank = fields.integer("o_lora_rank", {1, kWidthEnd});
  hybrid.sliding_window = fields.integer("sliding_window", {1, kPositionsEnd});
  hybrid.compress_rope_theta = fields.number("compress_rope_theta", kRopeBase);
  config.index_n_heads = fields.integer("index_n_heads", {1, kHeadsEnd});
  config.index_head_dim = fields.integer("index_head_dim", {1, kIndexDimEnd});
  config.index_topk = fields.integer("index_topk", {1, kPositionsEnd});
  const auto refuse = [&](const char* key, const std::string& expected) {
    fields.refuse(StatusCode::kInvalidArgument, key, expected);
  };
  const int32_t rope = config.qk_rope_head_dim;
  if (rope % 2 != 0) refuse("qk_rope_head_dim", "an even integer");
  if (hybrid.head_dim < rope) refuse("head_dim", fmt::format("at least qk_rope_head_dim ({})", rope));
  if (config.index_head_dim < rope) refuse("index_head_dim", fmt::format("at least qk_rope_head_dim ({})", rope));
  if (config.num_attention_heads % hybrid.o_groups != 0)
    refuse("o_groups", fmt::format("a divisor of num_attention_heads ({})", config.num_attention_heads));
}

// One ratio a layer; released files go on with those of the multi-token-prediction layers, which are not read.
void read_ratios(JsonFields& fields, ModelConfig& config, HybridConfig& hybrid) {
  hybrid.compress_ratios = fields.integers_or_none("compress_ratios", {0, kPositionsEnd});
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  if (hybrid.compress_ratios.size() < layers) {
    fields.refuse(StatusCode::kInvalidArgument, "compress_ratios",
                  fmt::format("at least num_hidden_layers ({}) integers", layers));
    return;
  }
  hybrid.compress_ratios.resize(layers);
  for (int32_t ratio : hybrid.compress_ratios)
    if (ratio != 0 && ratio != kSelectedRatio && ratio != kGlobalRatio)
      fields.refuse(StatusCode::kFailedPrecondition, "compress_ratios",
                    fmt::format("0, {} or {} for each layer", kSelectedRatio, kGlobalRatio));
}

void read_experts(JsonFields& fields, ModelConfig& config, HybridConfig& hybrid) {
  config.n_routed_experts = fields.integer("n_routed_experts", {1, kExpertsEnd});
  config.n_shared_experts = fields.integer("n_shared_experts", {1, kSharedExpertsEnd});
  config.num_experts_per_tok = fields.integer("num_experts_per_tok", {1, kExpertsEnd});
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", {1, kWidthEnd});
  config.routed_scaling_factor = fields.number("routed_scaling_factor", kPositiveNumber);
  config.topk_method = TopkMethod::kNoauxTc;
  config.scoring_func = ScoringFunc::kSqrtSoftplus;
  config.norm_topk_prob = true;
  expect_text(fields, "topk_method", "noaux_tc", config);
  expect_text(fields, "scoring_func", "sqrtsoftplus", config);
  if (!fields.flag_or("norm_topk_prob", true))
    fields.refuse(StatusCode::kFailedPrecondition, "norm_topk_prob", "true with " + config.model_type);
  hybrid.num_hash_layers = fields.integer("num_hash_layers", {0, kLayersEnd});
  hybrid.swiglu_limit = fields.number("swiglu_limit", kPositiveNumber);
  const std::string expert_dtype = fields.text_or("expert_dtype", "fp8");
  hybrid.fp4_experts = expert_dtype == "fp4";
  if (!hybrid.fp4_experts && expert_dtype != "fp8")
    fields.refuse(StatusCode::kFailedPrecondition, "expert_dtype", "\"fp4\" or \"fp8\"");
  if (config.num_experts_per_tok > config.n_routed_experts)
    fields.refuse(StatusCode::kInvalidArgument, "num_experts_per_tok",
                  fmt::format("at most n_routed_experts ({})", config.n_routed_experts));
  if (hybrid.num_hash_layers > config.num_hidden_layers)
    fields.refuse(StatusCode::kInvalidArgument, "num_hash_layers",
                  fmt::format("at most num_hidden_layers ({})", config.num_hidden_layers));
}

}  // namespace

void read_v4(JsonFields& fields, ModelConfig& config) {
  HybridConfig hybrid;
  read_attention(fields, config, hybrid);
  read_ratios(fields, config, hybrid);
  read_experts(fields, config, hybrid);
  hybrid.hc_mult = fields.integer("hc_mult", {1, kStreamsEnd});
  hybrid.hc_sinkhorn_iters = fields.integer("hc_sinkhorn_iters", {1, kIterationsEnd});
  hybrid.hc_eps = fields.number("hc_eps", kEpsilon);
  if (config.tie_word_embeddings)
    fields.refuse(StatusCode::kFailedPrecondition, "tie_word_embeddings", "false with " + config.model_type);
  config.hybrid = std::move(hybrid);
}

}  // namespace sluice
