#include "gpu/workspace.h"

#include <algorithm>
#include <bit>

#include "sluice/kv_layout.h"

namespace sluice {

namespace {

// Memory for the partial latents of attention; longer contexts or more rows go in several chunks.
constexpr int64_t kPartialBytes = int64_t{128} << 20;

}  // namespace

int32_t queries_of_piece(int32_t heads) { return std::clamp(32 / heads, 1, 8); }

int32_t moe_layers(const ModelConfig& config) {
  int32_t count = 0;
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer) count += config.is_moe_layer(layer);
  return count;
}

Workspace::Workspace(const ModelConfig& c, WeightFormat weights, const StepLimits& limits, DeviceCarver& carver) {
  const int64_t rows = limits.max_rows, hidden = c.hidden_size, heads = c.num_attention_heads;
  carver.carve(x, rows * hidden);
  carver.carve(normed, rows * hidden);
  carver.carve(delta, rows * hidden);
  carver.carve(query_latent, rows * c.q_lora_rank);
  carver.carve(query, rows * heads * c.qk_head_dim());
  carver.carve(kv_latent, rows * c.latent_dim());
  carver.carve(absorbed, rows * heads * c.latent_dim());
  carver.carve(mixed, rows * heads * c.kv_lora_rank);
  carver.carve(attended, rows * heads * c.v_head_dim);

  const int32_t queries = queries_of_piece(c.num_attention_heads);
  mla = cuda::choose_mla_config(c.num_attention_heads, queries, limits.shared_bytes_of_block);
  // As StepStager rounds them for graphs.
  const auto pages = static_cast<int64_t>(
      std::bit_ceil(static_cast<uint64_t>((limits.context_length + kPageTokens - 1) / kPageTokens)));
  const int64_t splits = (pages + mla.split_pages - 1) / mla.split_pages;
  const int64_t bytes_of_pair = heads * c.kv_lora_rank * 4;
  attention_rows_splits =
      std::clamp(kPartialBytes / bytes_of_pair, queries * splits, std::max(queries * splits, rows * splits));
  carver.carve(partial, attention_rows_splits * heads * c.kv_lora_rank);
  carver.carve(partial_lse, attention_rows_splits * heads);

  const int64_t pairs = rows * c.num_experts_per_tok, experts_of_layer = c.n_routed_experts;
  const int64_t shared_width = int64_t{c.moe_intermediate_size} * c.n_shared_experts;
  const int64_t widest = std::max({rows * c.intermediate_size, rows * shared_width, pairs * c.moe_intermediate_size});
  carver.carve(gate_up, 2 * widest);
  carver.carve(activated, widest);
  carver.carve(expert_out, pairs * hidden);
  carver.carve(router_logits, rows * experts_of_layer);
  carver.carve(experts, moe_layers(c) * pairs);
  carver.carve(expert_weights, moe_layers(c) * pairs);
  carver.carve(offsets, experts_of_layer + 1);
  carver.carve(row_ids, pairs);
  carver.carve(places, pairs);
  carver.carve(tiles, cuda::max_tiles(pairs, c.n_routed_experts, 8));
  carver.carve(num_tiles, 1);

  carver.carve(outputs, rows * hidden);
  carver.carve(hidden_normed, kGpuLogitsRows * hidden);
  carver.carve(logits, int64_t{kGpuLogitsRows} * c.vocab_size);

  const int32_t processors = limits.multiprocessors;
  const auto dense = [&](int64_t n, int64_t k, int64_t count) {
    products.cover(Products::dense_needs({weights, n, k}, count, processors));
    // A quantised checkpoint may keep any of them wide.
    products.cover(Products::dense_needs({WeightFormat::kBF16, n, k}, count, processors));
  };
  const int64_t q_inputs = c.q_lora_rank > 0 ? c.q_lora_rank : hidden;
  if (c.q_lora_rank > 0) dense(c.q_lora_rank, hidden, rows);
  dense(heads * c.qk_head_dim(), q_inputs, rows);
  dense(c.latent_dim(), hidden, rows);
  dense(hidden, heads * c.v_head_dim, rows);
  dense(2 * int64_t{c.intermediate_size}, hidden, rows);
  dense(hidden, c.intermediate_size, rows);
  dense(c.vocab_size, hidden, kGpuLogitsRows);
  if (experts_of_layer > 0) {
    dense(experts_of_layer, hidden, rows);
    for (const WeightFormat format : {weights, WeightFormat::kBF16}) {
      products.cover(Products::grouped_needs({format, 2 * int64_t{c.moe_intermediate_size}, hidden}, rows,
                                             c.num_experts_per_tok, c.n_routed_experts, processors));
      products.cover(Products::grouped_needs({format, hidden, c.moe_intermediate_size}, rows, c.num_experts_per_tok,
                                             c.n_routed_experts, processors));
    }
  }
  if (shared_width > 0) {
    dense(2 * shared_width, hidden, rows);
    dense(hidden, shared_width, rows);
  }
  carver.carve(partial_sums, products.values);
  carver.carve(counters, products.counters);
}

}  // namespace sluice
