// The names and shapes of a DeepSeek V2, V3 or V3.2 checkpoint, or one of Qwen3-MoE, as Hugging Face writes them. See checkpoint.h.
#include "model/checkpoint.h"
#include "model/required_tensors_v4.h"

namespace sluice {

namespace {

// Collects specs under one prefix, "model.layers.3.".
class SpecList {
 public:
  SpecList(std::vector<TensorSpec>& specs, std::string prefix) : specs_(specs), prefix_(std::move(prefix)) {}

  void add(const std::string& name, Shape shape) { specs_.push_back({prefix_ + name, shape}); }

  // gate, up: [width, hidden]; down: [hidden, width].
  void add_feed_forward(const std::string& block, int64_t hidden, int64_t width) {
    add(block + ".gate_proj.weight", {width, hidden});
    add(block + ".up_proj.weight", {width, hidden});
    add(block + ".down_proj.weight", {hidden, width});
  }

 private:
  std::vector<TensorSpec>& specs_;
  std::string prefix_;
};

void add_attention(const ModelConfig& c, SpecList& layer) {
  const int64_t heads = c.num_attention_heads;
  if (c.q_lora_rank > 0) {
    layer.add("self_attn.q_a_proj.weight", {c.q_lora_rank, c.hidden_size});
    layer.add("self_attn.q_a_layernorm.weight", {c.q_lora_rank});
    layer.add("self_attn.q_b_proj.weight", {heads * c.qk_head_dim(), c.q_lora_rank});
  } else {
    layer.add("self_attn.q_proj.weight", {heads * c.qk_head_dim(), c.hidden_size});
  }
  layer.add("self_attn.kv_a_proj_with_mqa.weight", {c.latent_dim(), c.hidden_size});
  layer.add("self_attn.kv_a_layernorm.weight", {c.kv_lora_rank});
  layer.add("self_attn.kv_b_proj.weight", {heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank});
  layer.add("self_attn.o_proj.weight", {c.hidden_size, heads * c.v_head_dim});
  if (c.index_topk > 0) {
    layer.add("self_attn.indexer.wq_b.weight", {int64_t{c.index_n_heads} * c.index_head_dim, c.q_lora_rank});
    layer.add("self_attn.indexer.wk.weight", {c.index_head_dim, c.hidden_size});
    layer.add("self_attn.indexer.k_norm.weight", {c.index_head_dim});
    layer.add("self_attn.indexer.k_norm.bias", {c.index_head_dim});
    layer.add("self_attn.indexer.weights_proj.weight", {c.index_n_heads, c.hidden_size});
  }
}

void add_grouped_attention(const ModelConfig& c, SpecList& layer) {
  const int64_t dim = c.grouped->head_dim, heads_width = c.num_attention_heads * dim;
  layer.add("self_attn.q_proj.weight", {heads_width, c.hidden_size});
  layer.add("self_attn.k_proj.weight", {c.grouped->width(), c.hidden_size});
  layer.add("self_attn.v_proj.weight", {c.grouped->width(), c.hidden_size});
  layer.add("self_attn.o_proj.weight", {c.hidden_size, heads_width});
  layer.add("self_attn.q_norm.weight", {dim});
  layer.add("self_attn.k_norm.weight", {dim});
}

void add_experts(const ModelConfig& c, SpecList& layer) {
  layer.add("mlp.gate.weight", {c.n_routed_experts, c.hidden_size});
  if (c.topk_method == TopkMethod::kNoauxTc) layer.add("mlp.gate.e_score_correction_bias", {c.n_routed_experts});
  for (int32_t expert = 0; expert < c.n_routed_experts; ++expert)
    layer.add_feed_forward(fmt::format("mlp.experts.{}", expert), c.hidden_size, c.moe_intermediate_size);
  if (c.n_shared_experts > 0)
    layer.add_feed_forward("mlp.shared_experts", c.hidden_size, int64_t{c.moe_intermediate_size} * c.n_shared_experts);
}

}  // namespace

std::vector<TensorSpec> required_tensors(const ModelConfig& config) {
  if (config.hybrid) return required_tensors_v4(config);
  std::vector<TensorSpec> specs;
  SpecList root(specs, "");
  root.add("model.embed_tokens.weight", {config.vocab_size, config.hidden_size});
  for (int32_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    SpecList layer(specs, fmt::format("model.layers.{}.", layer_idx));
    layer.add("input_layernorm.weight", {config.hidden_size});
    if (config.grouped) {
      add_grouped_attention(config, layer);
    } else {
      add_attention(config, layer);
    }
    layer.add("post_attention_layernorm.weight", {config.hidden_size});
    if (config.is_moe_layer(layer_idx)) {
      add_experts(config, layer);
    } else {
      layer.add_feed_forward("mlp", config.hidden_size, config.intermediate_size);
    }
  }
  root.add("model.norm.weight", {config.hidden_size});
  if (!config.tie_word_embeddings) root.add("lm_head.weight", {config.vocab_size, config.hidden_size});
  return specs;
}

}  // namespace sluice
