// A model's config.json, parsed and validated: the fields that the mathematics needs, named as Hugging Face names them.
// Owns no weights, refuses what the forward pass cannot compute. Supported: model_type deepseek_v2 (V2, V2-Lite),
// deepseek_v3 (V3, R1, V3.1), deepseek_v32 (V3.2), deepseek_v4, qwen3_moe. Called once at start; afterwards plain data
// that every thread may read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/request.h"
#include "sluice/scoring_func.h"
#include "sluice/status.h"
#include "sluice/types.h"

#include "model/packed_tensor.h"

namespace sluice {

enum class Architecture : uint8_t { kDeepSeekV2, kDeepSeekV3, kDeepSeekV32, kDeepSeekV4, kQwen3Moe };

enum class TopkMethod : uint8_t {
  kGreedy,              // top-k of all experts
  kGroupLimitedGreedy,  // groups scored by their best expert (V2)
  kNoauxTc,             // groups scored by the sum of their two best biased scores (V3)
};

// Parameters of YaRN (arXiv:2309.00071) as in rope_scaling.
struct YarnConfig {
  double factor = 1;          // >= 1, context length over original_max_position_embeddings
  double beta_fast = 32;      // rotations within the original context above which a frequency stays as it was
  double beta_slow = 1;       // ... below which it is divided by factor
  double mscale = 0;          // 0: absent
  double mscale_all_dim = 0;  // 0: absent
  std::optional<double> attention_factor;           // multiplies cos and sin; absent: follows from the mscales
  int32_t original_max_position_embeddings = 4096;  // tokens
  bool truncate = true;                             // the ramp's ends are rounded to whole frequencies

  bool operator==(const YarnConfig&) const = default;
};

// Tokens that one compressed entry of a DeepSeek-V4 layer stands for; 0: the layer has a sliding window alone.
constexpr int32_t kSelectedRatio = 4;  // overlapping blocks, of which an indexer chooses
constexpr int32_t kGlobalRatio = 128;  // blocks that are all attended

// What DeepSeek-V4 has instead of latent attention and a plain residual stream.
struct HybridConfig {
  int32_t head_dim = 0;        // of queries and of the one key-value vector; the last qk_rope_head_dim are rotated
  int32_t o_groups = 0;        // of heads in the output projection
  int32_t o_lora_rank = 0;     // outputs of a group
  int32_t sliding_window = 0;  // tokens, the own included
  std::vector<int32_t> compress_ratios;  // [num_hidden_layers] 0, kSelectedRatio or kGlobalRatio
  double compress_rope_theta = 0;        // rotary base of layers with a ratio; they have YaRN, too
  int32_t num_hash_layers = 0;           // first layers, whose experts follow from the token id
  double swiglu_limit = 0;
  int32_t hc_mult = 0;            // residual streams of the hyper-connections
  int32_t hc_sinkhorn_iters = 0;
  double hc_eps = 0;
  bool fp4_experts = false;       // routed experts are packed FP4 on disk, one scale for each 32 inputs
};

// What Qwen3-MoE has instead of latent attention: keys and values of a few heads, each shared by a group of query heads
// (GQA, arXiv:2305.13245).
struct GroupedConfig {
  int32_t kv_heads = 0;  // a divisor of num_attention_heads
  int32_t head_dim = 0;  // of queries, keys and values; all of a query's and a key's dims are rotated, as halves

  int32_t width() const { return kv_heads * head_dim; }  // of a position's keys; as much again of its values
};

// Block attention instead of full attention, where the operator asks for it (`attention: block_global`). Not a field of
// config.json: no model here was trained for it. In pages (kPageTokens positions).
struct BlockGlobalConfig {
  int32_t pages = 0;         // that a token attends to; tokens with no more before them attend to all
  int32_t sink_pages = 0;    // of these, the first of the sequence
  int32_t window_pages = 1;  // of these, the last, the token's own included
  int32_t full_every = 0;    // layers 0, k, 2k, ... keep full attention; 0: none does

  bool is_full(int32_t layer) const { return full_every > 0 && layer % full_every == 0; }
  int32_t num_full(int32_t layers) const { return full_every > 0 ? (layers + full_every - 1) / full_every : 0; }
};

struct ModelConfig {
  Architecture architecture = Architecture::kDeepSeekV2;
  std::string model_type;  // as written
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t num_hidden_layers = 0;
  int32_t num_attention_heads = 0;
  int32_t intermediate_size = 0;        // width of a dense layer's feed-forward
  int32_t max_position_embeddings = 0;  // tokens
  double rope_theta = 10000;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool rope_interleave = true;  // pairs (2i, 2i+1); false is HALF (V3 only)

  // Latent attention (MLA).
  int32_t q_lora_rank = 0;  // 0: queries are projected directly
  int32_t kv_lora_rank = 0;
  int32_t qk_nope_head_dim = 0;
  int32_t qk_rope_head_dim = 0;
  int32_t v_head_dim = 0;
  std::optional<YarnConfig> yarn;

  // The lightning indexer that chooses what attention looks at (V3.2).
  int32_t index_n_heads = 0;
  int32_t index_head_dim = 0;  // the first qk_rope_head_dim of them are rotated
  int32_t index_topk = 0;      // positions a token attends to at most; 0: all of them, no indexer

  std::optional<HybridConfig> hybrid;    // V4
  std::optional<GroupedConfig> grouped;  // Qwen3-MoE; its fields of latent attention are zeros but for the head's dims
  std::optional<BlockGlobalConfig> block_global;  // the operator's; parse() leaves it empty

  // Mixture of experts.
  int32_t n_routed_experts = 0;  // 0: every layer is dense
  int32_t n_shared_experts = 0;
  int32_t num_experts_per_tok = 0;
  int32_t moe_intermediate_size = 0;
  int32_t first_k_dense_replace = 0;
  int32_t moe_layer_freq = 1;
  std::vector<int32_t> dense_layers;  // further ones, by number, ascending (Qwen3-MoE)
  int32_t n_group = 1;
  int32_t topk_group = 1;
  TopkMethod topk_method = TopkMethod::kGreedy;
  ScoringFunc scoring_func = ScoringFunc::kSoftmax;
  // Divide the chosen weights by their sum; they are multiplied by routed_scaling_factor in any case. V2's own code
  // does either the one or the other, which parse() turns into these terms.
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1.0;

  // FP8 weights with one scale per block; 0: none.
  int32_t weight_block_rows = 0;
  int32_t weight_block_cols = 0;
  std::optional<PackedScheme> packed;  // matrices that come as codes of 4 or 8 bits

  std::optional<TokenId> bos_token_id;
  std::vector<TokenId> eos_token_ids;

  bool is_v2() const { return architecture == Architecture::kDeepSeekV2; }  // else V3 or what is built on it
  int32_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int32_t latent_dim() const { return kv_lora_rank + qk_rope_head_dim; }  // values cached per token and layer
  bool is_moe_layer(int32_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0 &&
           !std::binary_search(dense_layers.begin(), dense_layers.end(), layer);
  }

  // INVALID_ARGUMENT for a malformed, missing, out-of-range or inconsistent field, FAILED_PRECONDITION for what the
  // field may be elsewhere but is not supported here. `file` is only named in errors:
  // "FILE: hidden_size: expected a positive integer, found \"x\"".
  static Result<ModelConfig> parse(std::string_view json, const std::string& file);
  static Result<ModelConfig> load(const std::string& directory);
};

// generation_config.json over `info`'s defaults (sampling, max tokens, end-of-sequence ids); absent file: no change.
// do_sample: false means temperature 0. Keys that say nothing about these are ignored. On an error `info` is as before.
Status apply_generation_config(const std::string& directory, ModelInfo& info);

}  // namespace sluice
