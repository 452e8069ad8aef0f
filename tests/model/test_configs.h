// config.json of the released models whose figures are known, and of one that is small enough to write to disk.
#pragma once

#include <nlohmann/json.hpp>

namespace sluice {

inline nlohmann::json yarn_json(double mscale) {
  return {{"type", "yarn"},
          {"factor", 40},
          {"beta_fast", 32},
          {"beta_slow", 1},
          {"mscale", mscale},
          {"mscale_all_dim", mscale},
          {"original_max_position_embeddings", 4096}};
}

inline nlohmann::json v2_lite_json() {
  return {{"model_type", "deepseek_v2"},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"vocab_size", 102400},
          {"hidden_size", 2048},
          {"num_hidden_layers", 27},
          {"num_attention_heads", 16},
          {"num_key_value_heads", 16},
          {"intermediate_size", 10944},
          {"moe_intermediate_size", 1408},
          {"max_position_embeddings", 163840},
          {"rope_theta", 10000},
          {"rms_norm_eps", 1e-6},
          {"tie_word_embeddings", false},
          {"q_lora_rank", nullptr},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 128},
          {"n_routed_experts", 64},
          {"n_shared_experts", 2},
          {"num_experts_per_tok", 6},
          {"first_k_dense_replace", 1},
          {"moe_layer_freq", 1},
          {"n_group", 1},
          {"topk_group", 1},
          {"topk_method", "greedy"},
          {"scoring_func", "softmax"},
          {"norm_topk_prob", false},
          {"routed_scaling_factor", 1.0},
          {"rope_scaling", yarn_json(0.707)},
          {"bos_token_id", 100000},
          {"eos_token_id", 100001}};
}

inline nlohmann::json v2_json() {
  nlohmann::json json = v2_lite_json();
  json.update({{"hidden_size", 5120},
               {"num_hidden_layers", 60},
               {"num_attention_heads", 128},
               {"num_key_value_heads", 128},
               {"intermediate_size", 12288},
               {"moe_intermediate_size", 1536},
               {"q_lora_rank", 1536},
               {"n_routed_experts", 160},
               {"n_group", 8},
               {"topk_group", 3},
               {"topk_method", "group_limited_greedy"},
               {"routed_scaling_factor", 16.0},
               {"rope_scaling", yarn_json(1.0)}});
  return json;
}

inline nlohmann::json v3_json() {
  nlohmann::json json = v2_json();
  json.update({{"model_type", "deepseek_v3"},
               {"vocab_size", 129280},
               {"hidden_size", 7168},
               {"num_hidden_layers", 61},
               {"intermediate_size", 18432},
               {"moe_intermediate_size", 2048},
               {"n_routed_experts", 256},
               {"n_shared_experts", 1},
               {"num_experts_per_tok", 8},
               {"n_group", 8},
               {"topk_group", 4},
               {"topk_method", "noaux_tc"},
               {"scoring_func", "sigmoid"},
               {"norm_topk_prob", true},
               {"routed_scaling_factor", 2.5},
               {"first_k_dense_replace", 3},
               {"num_nextn_predict_layers", 1},
               {"bos_token_id", 0},
               {"eos_token_id", 1},
               {"quantization_config",
                {{"quant_method", "fp8"},
                 {"fmt", "e4m3"},
                 {"activation_scheme", "dynamic"},
                 {"weight_block_size", {128, 128}}}}});
  return json;
}

inline nlohmann::json v32_json() {
  nlohmann::json json = v3_json();
  json.update({{"model_type", "deepseek_v32"}, {"index_n_heads", 64}, {"index_head_dim", 128}, {"index_topk", 2048}});
  return json;
}

// V4-Flash: window, window, then selected and global in turn; one entry more, of the layer that is left out.
inline nlohmann::json v4_flash_json() {
  nlohmann::json ratios = {0, 0};
  for (int i = 0; i < 20; ++i) ratios.insert(ratios.end(), {4, 128});
  ratios.insert(ratios.end(), {4, 0});
  return {{"model_type", "deepseek_v4"},
          {"vocab_size", 129280},
          {"hidden_size", 4096},
          {"num_hidden_layers", 43},
          {"num_attention_heads", 64},
          {"num_key_value_heads", 1},
          {"head_dim", 512},
          {"qk_rope_head_dim", 64},
          {"q_lora_rank", 1024},
          {"o_groups", 8},
          {"o_lora_rank", 1024},
          {"sliding_window", 128},
          {"index_n_heads", 64},
          {"index_head_dim", 128},
          {"index_topk", 512},
          {"n_routed_experts", 256},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 6},
          {"moe_intermediate_size", 2048},
          {"num_hash_layers", 3},
          {"routed_scaling_factor", 1.5},
          {"scoring_func", "sqrtsoftplus"},
          {"topk_method", "noaux_tc"},
          {"norm_topk_prob", true},
          {"swiglu_limit", 10.0},
          {"hidden_act", "silu"},
          {"hc_mult", 4},
          {"hc_sinkhorn_iters", 20},
          {"hc_eps", 1e-6},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000},
          {"compress_rope_theta", 160000},
          {"compress_ratios", ratios},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 16},
            {"beta_fast", 32},
            {"beta_slow", 1},
            {"original_max_position_embeddings", 65536}}},
          {"max_position_embeddings", 1048576},
          {"tie_word_embeddings", false},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"expert_dtype", "fp4"},
          {"quantization_config",
           {{"quant_method", "fp8"},
            {"fmt", "e4m3"},
            {"activation_scheme", "dynamic"},
            {"scale_fmt", "ue8m0"},
            {"weight_block_size", {128, 128}}}}};
}

inline nlohmann::json v4_pro_json() {
  nlohmann::json ratios = {128, 128};
  for (int i = 0; i < 29; ++i) ratios.insert(ratios.end(), {4, 128});
  ratios.insert(ratios.end(), {4, 0});
  nlohmann::json json = v4_flash_json();
  json.update({{"hidden_size", 7168},
               {"num_hidden_layers", 61},
               {"num_attention_heads", 128},
               {"q_lora_rank", 1536},
               {"o_groups", 16},
               {"index_topk", 1024},
               {"n_routed_experts", 384},
               {"moe_intermediate_size", 3072},
               {"routed_scaling_factor", 2.5},
               {"compress_ratios", ratios}});
  return json;
}

// A layer of each type, small enough to write to disk.
inline nlohmann::json tiny_v4_json() {
  nlohmann::json json = v4_flash_json();
  json.update({{"vocab_size", 24},
               {"hidden_size", 32},
               {"num_hidden_layers", 3},
               {"num_attention_heads", 2},
               {"head_dim", 16},
               {"qk_rope_head_dim", 4},
               {"q_lora_rank", 8},
               {"o_groups", 2},
               {"o_lora_rank", 4},
               {"sliding_window", 8},
               {"index_n_heads", 2},
               {"index_head_dim", 8},
               {"index_topk", 4},
               {"n_routed_experts", 4},
               {"num_experts_per_tok", 2},
               {"moe_intermediate_size", 64},
               {"num_hash_layers", 1},
               {"compress_ratios", {0, 4, 128}}});
  return json;
}

// A dense layer and a MoE layer, a few thousand parameters.
inline nlohmann::json tiny_json() {
  nlohmann::json json = v2_lite_json();
  json.update({{"vocab_size", 24},
               {"hidden_size", 12},
               {"num_hidden_layers", 2},
               {"num_attention_heads", 2},
               {"num_key_value_heads", 2},
               {"intermediate_size", 20},
               {"moe_intermediate_size", 6},
               {"max_position_embeddings", 64},
               {"kv_lora_rank", 8},
               {"qk_nope_head_dim", 4},
               {"qk_rope_head_dim", 2},
               {"v_head_dim", 4},
               {"n_routed_experts", 4},
               {"n_shared_experts", 1},
               {"num_experts_per_tok", 2},
               {"rope_scaling", nullptr},
               {"bos_token_id", 0},
               {"eos_token_id", 1}});
  return json;
}

// Qwen3-30B-A3B.
inline nlohmann::json qwen3_moe_json() {
  return {{"model_type", "qwen3_moe"},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"vocab_size", 151936},
          {"hidden_size", 2048},
          {"num_hidden_layers", 48},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 4},
          {"head_dim", 128},
          {"intermediate_size", 6144},
          {"moe_intermediate_size", 768},
          {"num_experts", 128},
          {"num_experts_per_tok", 8},
          {"norm_topk_prob", true},
          {"decoder_sparse_step", 1},
          {"mlp_only_layers", nlohmann::json::array()},
          {"max_position_embeddings", 40960},
          {"rope_theta", 1000000.0},
          {"rope_scaling", nullptr},
          {"rms_norm_eps", 1e-6},
          {"use_sliding_window", false},
          {"sliding_window", nullptr},
          {"tie_word_embeddings", false},
          {"bos_token_id", 151643},
          {"eos_token_id", 151645}};
}

}  // namespace sluice
