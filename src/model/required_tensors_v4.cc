#include "model/required_tensors_v4.h"

namespace sluice {

namespace {

class SpecList {
 public:
  SpecList(std::vector<TensorSpec>& specs, std::string prefix) : specs_(specs), prefix_(std::move(prefix)) {}

  void add(const std::string& name, Shape shape, Storage storage = Storage::kFloat) {
    specs_.push_back({prefix_ + name, shape, storage});
  }
  // w1 gate, w3 up: [width, hidden]; w2 down: [hidden, width].
  void add_feed_forward(const std::string& block, int64_t hidden, int64_t width, Storage storage) {
    add(block + ".w1.weight", {width, hidden}, storage);
    add(block + ".w2.weight", {hidden, width}, storage);
    add(block + ".w3.weight", {width, hidden}, storage);
  }

 private:
  std::vector<TensorSpec>& specs_;
  std::string prefix_;
};

// One hyper-connection site: n weights in, n out, n x n between, of n streams side by side.
void add_site(const ModelConfig& c, const std::string& name, SpecList& layer) {
  const int64_t streams = c.hybrid->hc_mult, outputs = 2 * streams + streams * streams;
  layer.add(name + "_fn", {outputs, streams * c.hidden_size});
  layer.add(name + "_base", {outputs});
  layer.add(name + "_scale", {3});
}

// `dim` wide entries of `ratio` tokens; overlapping ones have a second series of columns.
void add_compressor(const ModelConfig& c, const std::string& name, int64_t ratio, int64_t dim, SpecList& layer) {
  const int64_t columns = ratio == kSelectedRatio ? 2 * dim : dim;
  layer.add(name + ".wkv.weight", {columns, c.hidden_size});
  layer.add(name + ".wgate.weight", {columns, c.hidden_size});
  layer.add(name + ".ape", {ratio, columns});
  layer.add(name + ".norm.weight", {dim});
}

void add_attention(const ModelConfig& c, int32_t ratio, SpecList& layer) {
  const HybridConfig& h = *c.hybrid;
  const int64_t head_values = int64_t{c.num_attention_heads} * h.head_dim;
  const int64_t group_outputs = int64_t{h.o_groups} * h.o_lora_rank;
  layer.add("attn.wq_a.weight", {c.q_lora_rank, c.hidden_size});
  layer.add("attn.q_norm.weight", {c.q_lora_rank});
  layer.add("attn.wq_b.weight", {head_values, c.q_lora_rank});
  layer.add("attn.wkv.weight", {h.head_dim, c.hidden_size});
  layer.add("attn.kv_norm.weight", {h.head_dim});
  layer.add("attn.attn_sink", {c.num_attention_heads});
  layer.add("attn.wo_a.weight", {group_outputs, head_values / h.o_groups});
  layer.add("attn.wo_b.weight", {c.hidden_size, group_outputs});
  if (ratio != 0) add_compressor(c, "attn.compressor", ratio, h.head_dim, layer);
  if (ratio != kSelectedRatio) return;
  layer.add("attn.indexer.wq_b.weight", {int64_t{c.index_n_heads} * c.index_head_dim, c.q_lora_rank});
  layer.add("attn.indexer.weights_proj.weight", {c.index_n_heads, c.hidden_size});
  add_compressor(c, "attn.indexer.compressor", ratio, c.index_head_dim, layer);
}

void add_experts(const ModelConfig& c, int32_t layer_idx, SpecList& layer) {
  const HybridConfig& h = *c.hybrid;
  layer.add("ffn.gate.weight", {c.n_routed_experts, c.hidden_size});
  if (layer_idx < h.num_hash_layers) {
    layer.add("ffn.gate.tid2eid", {c.vocab_size, c.num_experts_per_tok}, Storage::kTokenIds);
  } else {
    layer.add("ffn.gate.bias", {c.n_routed_experts});
  }
  for (int32_t expert = 0; expert < c.n_routed_experts; ++expert)
    layer.add_feed_forward(fmt::format("ffn.experts.{}", expert), c.hidden_size, c.moe_intermediate_size,
                           h.fp4_experts ? Storage::kFp4 : Storage::kFloat);
  layer.add_feed_forward("ffn.shared_experts", c.hidden_size, int64_t{c.moe_intermediate_size} * c.n_shared_experts,
                         Storage::kFloat);
}

}  // namespace

std::vector<TensorSpec> required_tensors_v4(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  SpecList root(specs, "");
  root.add("embed.weight", {config.vocab_size, config.hidden_size});
  for (int32_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    SpecList layer(specs, fmt::format("layers.{}.", layer_idx));
    add_site(config, "hc_attn", layer);
    layer.add("attn_norm.weight", {config.hidden_size});
    add_attention(config, config.hybrid->compress_ratios[static_cast<size_t>(layer_idx)], layer);
    add_site(config, "hc_ffn", layer);
    layer.add("ffn_norm.weight", {config.hidden_size});
    add_experts(config, layer_idx, layer);
  }
  const int64_t streams = config.hybrid->hc_mult;
  root.add("hc_head_fn", {streams, streams * config.hidden_size});
  root.add("hc_head_base", {streams});
  root.add("hc_head_scale", {1});
  root.add("norm.weight", {config.hidden_size});
  root.add("head.weight", {config.vocab_size, config.hidden_size});
  return specs;
}

}  // namespace sluice
