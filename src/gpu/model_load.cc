// What of a model goes onto the device, which models can, and how many bytes that takes.
#include <algorithm>

#include "sluice/log.h"
#include "sluice/quantize.h"

#include "gpu/model.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "model/cache_layout.h"

namespace sluice {

namespace {

// A field that kernels want in steps, and what it must be a multiple of.
struct Step {
  const char* field;
  int64_t found;
  int64_t multiple;
};

// Adds up what the loader would allocate.
class WeightBytes {
 public:
  WeightBytes(const Checkpoint& checkpoint, WeightFormat wanted)
      : checkpoint_(checkpoint),
        format_(wanted == WeightFormat::kAuto ? checkpoint.native_format() : wanted),
        as_stored_(wanted == WeightFormat::kAuto && is_quantized(format_)) {}
  // Made of these tensors of the checkpoint; if it keeps one of them wide, all are.
  void matrices(const std::vector<std::string>& tensors, int64_t count, int64_t n, int64_t k) {
    const auto is_packed = [&](const std::string& name) { return checkpoint_.is_packed(name); };
    const bool wide = as_stored_ && !std::all_of(tensors.begin(), tensors.end(), is_packed);
    bytes_ += device_matrices_bytes({wide ? WeightFormat::kBF16 : format_, n, k}, count);
  }
  void matrices_bf16(int64_t count, int64_t n, int64_t k) {
    bytes_ += device_matrices_bytes({WeightFormat::kBF16, n, k}, count);
  }
  void feed_forward(const std::string& prefix, int64_t hidden, int64_t width) {
    matrices({prefix + "gate_proj.weight", prefix + "up_proj.weight"}, 1, 2 * width, hidden);
    matrices({prefix + "down_proj.weight"}, 1, hidden, width);
  }
  void values(int64_t count, int64_t bytes) { bytes_ += aligned_bytes(count * bytes); }
  int64_t bytes() const { return bytes_; }

 private:
  const Checkpoint& checkpoint_;
  const WeightFormat format_;
  const bool as_stored_;
  int64_t bytes_ = 0;
};

}  // namespace

Status GpuModel::check_supported(const ModelConfig& c) {
  if (c.block_global) return failed_precondition("attention: block_global is not supported on device cuda");
  if (c.hybrid || c.grouped || c.index_topk > 0)
    return failed_precondition("config.json: model_type: {} is not supported on device cuda; expected deepseek_v2 or"
                               " deepseek_v3", c.model_type);
  const auto latent = std::pair(c.kv_lora_rank, c.qk_rope_head_dim);
  if (latent != std::pair(64, 16) && latent != std::pair(256, 32) && latent != std::pair(512, 64))
    return failed_precondition(
        "config.json: kv_lora_rank and qk_rope_head_dim: device cuda has kernels for (64, 16), (256, 32) and (512, 64),"
        " found ({}, {})",
        c.kv_lora_rank, c.qk_rope_head_dim);
  for (const Step& step : {Step{"hidden_size", c.hidden_size, 16},
                           {"vocab_size", c.vocab_size, 16},
                           {"q_lora_rank", c.q_lora_rank, 16},
                           {"qk_nope_head_dim", c.qk_nope_head_dim, 16},
                           {"v_head_dim", c.v_head_dim, 16},
                           {"intermediate_size", c.intermediate_size, 8},
                           {"moe_intermediate_size", c.moe_intermediate_size, 8},
                           {"n_routed_experts", c.n_routed_experts, 16}})
    if (step.found % step.multiple != 0)
      return failed_precondition("config.json: {}: device cuda expects a multiple of {}, found {}", step.field,
                                 step.multiple, step.found);
  for (const auto& [field, found] : {std::pair("hidden_size", c.hidden_size), std::pair("q_lora_rank", c.q_lora_rank)})
    if (found > cuda::kMaxNormCols)
      return failed_precondition("config.json: {}: device cuda expects at most {}, found {}", field, cuda::kMaxNormCols,
                                 found);
  if (c.n_routed_experts > cuda::kMaxExperts || c.num_experts_per_tok > cuda::kMaxTopK || c.n_group > cuda::kMaxGroups)
    return failed_precondition(
        "config.json: device cuda expects n_routed_experts <= {}, num_experts_per_tok <= {} and n_group <= {}, found {},"
        " {} and {}",
        cuda::kMaxExperts, cuda::kMaxTopK, cuda::kMaxGroups, c.n_routed_experts, c.num_experts_per_tok, c.n_group);
  return {};
}

Status GpuModel::check_weights(WeightFormat weights) {
  if (cuda_packing().supports(weights)) return {};
  return failed_precondition(
      "weights: {} is not supported on device cuda, which takes bf16, int4-g32, int4-g64 and int4-g128; --weights"
      " names another format",
      name(weights));
}

KvLayout GpuModel::page_layout(const ModelConfig& config) { return cache_layout(config, DType::kBF16); }

bool GpuModel::is_hosted(const ModelConfig& config, int32_t layer, int32_t host_layers) {
  int32_t behind = 0;  // layers with experts, this one included
  for (int32_t i = layer; i < config.num_hidden_layers; ++i) behind += config.is_moe_layer(i);
  return config.is_moe_layer(layer) && behind <= host_layers;
}

int64_t GpuModel::planned_weight_bytes(const ModelConfig& c, const Checkpoint& checkpoint, WeightFormat wanted,
                                       int32_t host_layers) {
  WeightBytes sum(checkpoint, wanted);
  const int64_t hidden = c.hidden_size, heads = c.num_attention_heads, width = c.moe_intermediate_size;
  const std::string embed = "model.embed_tokens.weight";
  sum.values(int64_t{c.vocab_size} * hidden, 2);
  sum.values(hidden, 4);
  sum.matrices({c.tie_word_embeddings ? embed : "lm_head.weight"}, 1, c.vocab_size, hidden);
  for (int32_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer), attention = prefix + "self_attn.";
    sum.values(hidden, 4);
    sum.values(hidden, 4);
    if (c.q_lora_rank > 0) {
      sum.matrices({attention + "q_a_proj.weight"}, 1, c.q_lora_rank, hidden);
      sum.values(c.q_lora_rank, 4);
      sum.matrices({attention + "q_b_proj.weight"}, 1, heads * c.qk_head_dim(), c.q_lora_rank);
    } else {
      sum.matrices({attention + "q_proj.weight"}, 1, heads * c.qk_head_dim(), hidden);
    }
    sum.matrices({attention + "kv_a_proj_with_mqa.weight"}, 1, c.latent_dim(), hidden);
    sum.values(c.kv_lora_rank, 4);
    sum.matrices_bf16(heads, c.kv_lora_rank, c.qk_nope_head_dim);
    sum.matrices_bf16(heads, c.v_head_dim, c.kv_lora_rank);
    sum.matrices({attention + "o_proj.weight"}, 1, hidden, heads * c.v_head_dim);
    if (!c.is_moe_layer(layer)) {
      sum.feed_forward(prefix + "mlp.", hidden, c.intermediate_size);
      continue;
    }
    sum.matrices_bf16(1, c.n_routed_experts, hidden);
    if (c.topk_method == TopkMethod::kNoauxTc) sum.values(c.n_routed_experts, 4);
    if (c.n_shared_experts > 0) sum.feed_forward(prefix + "mlp.shared_experts.", hidden, width * c.n_shared_experts);
    if (is_hosted(c, layer, host_layers)) continue;
    std::vector<std::string> gate_up, down;
    for (int32_t expert = 0; expert < c.n_routed_experts; ++expert) {
      const std::string name = fmt::format("{}mlp.experts.{}.", prefix, expert);
      gate_up.push_back(name + "gate_proj.weight");
      gate_up.push_back(name + "up_proj.weight");
      down.push_back(name + "down_proj.weight");
    }
    sum.matrices(gate_up, c.n_routed_experts, 2 * width, hidden);
    sum.matrices(down, c.n_routed_experts, hidden, width);
  }
  return sum.bytes();
}

void GpuModel::load_weights(DeviceLoader& loader, WeightLoader* host_loader) {
  const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
  const std::string embed = "model.embed_tokens.weight";
  embedding_ = loader.rows_bf16(embed, vocab, hidden);
  for (int32_t index = 0; index < config_.num_hidden_layers && loader.status().ok(); ++index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    Layer layer;
    layer.input_norm = loader.vector(prefix + "input_layernorm.weight", hidden);
    layer.attention = load_attention(index, loader);
    layer.ffn_norm = loader.vector(prefix + "post_attention_layernorm.weight", hidden);
    layer.is_moe = config_.is_moe_layer(index);
    if (layer.is_moe) {
      layer.moe = load_experts(index, loader, host_loader);
    } else {
      layer.dense = load_feed_forward(prefix + "mlp.", hidden, config_.intermediate_size, loader);
    }
    layers_.push_back(std::move(layer));
  }
  final_norm_ = loader.vector("model.norm.weight", hidden);
  head_ = loader.pack({loader.rows().tensor(config_.tie_word_embeddings ? embed : "lm_head.weight", vocab, hidden)});
}

GpuModel::Attention GpuModel::load_attention(int32_t layer, DeviceLoader& loader) const {
  const ModelConfig& c = config_;
  const WeightLoader& rows = loader.rows();
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
  const int64_t heads = c.num_attention_heads, q_rows = heads * c.qk_head_dim();
  Attention result;
  if (c.q_lora_rank > 0) {
    result.q_a = loader.pack({rows.tensor(prefix + "q_a_proj.weight", c.q_lora_rank, c.hidden_size)});
    result.q_a_norm = loader.vector(prefix + "q_a_layernorm.weight", c.q_lora_rank);
    result.q = loader.pack({rows.tensor(prefix + "q_b_proj.weight", q_rows, c.q_lora_rank)});
  } else {
    result.q = loader.pack({rows.tensor(prefix + "q_proj.weight", q_rows, c.hidden_size)});
  }
  result.kv_a = loader.pack({rows.tensor(prefix + "kv_a_proj_with_mqa.weight", c.latent_dim(), c.hidden_size)});
  result.kv_a_norm = loader.vector(prefix + "kv_a_layernorm.weight", c.kv_lora_rank);
  // kv_b_proj [heads * (nope + v), kv_lora_rank]: per head first the keys' rows, then the values'.
  const std::string kv_b = prefix + "kv_b_proj.weight";
  std::vector<RowSource> k_up_t, v_up;
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t row = head * (c.qk_nope_head_dim + c.v_head_dim);
    k_up_t.push_back(rows.transposed(kv_b, row, c.qk_nope_head_dim, c.kv_lora_rank));
    v_up.push_back(rows.slice(kv_b, row + c.qk_nope_head_dim, c.v_head_dim, c.kv_lora_rank));
  }
  result.k_up_t = loader.pack_bf16(k_up_t);
  result.v_up = loader.pack_bf16(v_up);
  result.out = loader.pack({rows.tensor(prefix + "o_proj.weight", c.hidden_size, heads * c.v_head_dim)});
  return result;
}

GpuModel::FeedForward GpuModel::load_feed_forward(const std::string& prefix, int64_t hidden, int64_t width,
                                                  DeviceLoader& loader) {
  const WeightLoader& rows = loader.rows();
  FeedForward result;
  result.gate_up = loader.pack({WeightLoader::stacked(rows.tensor(prefix + "gate_proj.weight", width, hidden),
                                                      rows.tensor(prefix + "up_proj.weight", width, hidden))});
  result.down = loader.pack({rows.tensor(prefix + "down_proj.weight", hidden, width)});
  return result;
}

GpuModel::Experts GpuModel::load_experts(int32_t layer, DeviceLoader& loader, WeightLoader* host_loader) {
  const ModelConfig& c = config_;
  const WeightLoader& rows = loader.rows();
  const std::string prefix = fmt::format("model.layers.{}.mlp.", layer), gate = prefix + "gate.weight";
  const int64_t hidden = c.hidden_size, width = c.moe_intermediate_size;
  Experts result;
  if (rows.checkpoint().dtype(gate) == DType::kF32 && layer == c.first_k_dense_replace)
    log_warn("{}: the router's weights are F32 and are rounded to bf16 on device cuda", gate);
  result.router = loader.pack_bf16({rows.tensor(gate, c.n_routed_experts, hidden)});
  if (c.topk_method == TopkMethod::kNoauxTc)
    result.bias = loader.vector(prefix + "gate.e_score_correction_bias", c.n_routed_experts);
  if (c.n_shared_experts > 0)
    result.shared = load_feed_forward(prefix + "shared_experts.", hidden, width * c.n_shared_experts, loader);
  if (is_hosted(c, layer, host_layers_)) {
    result.host_index = host_experts_->load(layer, *host_loader);
    return result;
  }
  std::vector<RowSource> gate_up, down;
  for (int32_t expert = 0; expert < c.n_routed_experts; ++expert) {
    const std::string name = fmt::format("{}experts.{}.", prefix, expert);
    gate_up.push_back(WeightLoader::stacked(rows.tensor(name + "gate_proj.weight", width, hidden),
                                            rows.tensor(name + "up_proj.weight", width, hidden)));
    down.push_back(rows.tensor(name + "down_proj.weight", hidden, width));
  }
  result.gate_up = loader.pack(gate_up);
  result.down = loader.pack(down);
  return result;
}

}  // namespace sluice
