#include "model/sparse_attention.h"

#include <algorithm>

namespace sluice {

namespace {

// Rows of a block: with the released shape (128 heads, latents of 512) 64 of them take 17 MB for the absorbed queries
// and as much for the latents, and are enough that each head's K_h^T and V_h are read once for many rows.
constexpr int32_t kBlockRows = 64;

}  // namespace

SparseAttention::Workspace::Workspace(const ModelConfig& config, const Partition& partition, int64_t max_rows)
    : indexer(config, max_rows) {
  const int64_t block_rows = std::min<int64_t>(kBlockRows, max_rows);
  const int64_t num_vectors = partition.heads.size() * block_rows;
  // Below index_topk positions nothing is chosen, so a larger index_topk than positions needs no room.
  positions.resize(static_cast<size_t>(block_rows * std::min(config.index_topk, config.max_position_embeddings)));
  absorbed.resize(static_cast<size_t>(num_vectors * config.kv_lora_rank));
  latents.resize(absorbed.size());
  values.resize(static_cast<size_t>(num_vectors * config.v_head_dim));
}

void SparseAttention::forward(const StepBatch& batch, std::span<const SequenceSpan> spans, const Inputs& in,
                              Workspace& work, const Backend& backend, OpContext& context) const {
  indexer_.write_keys(batch, in.normed, in.cos_sin, work.indexer, backend, context);
  if (spans.empty()) return;
  indexer_.project_queries(static_cast<int64_t>(batch.tokens.size()), in.normed, in.query_latent, in.cos_sin,
                           work.indexer, backend, context);
  for_each_block(spans, kBlockRows, work.block, [&] { attend_block(batch, in, work, backend, context); });
}

void SparseAttention::attend_block(const StepBatch& batch, const Inputs& in, Workspace& work, const Backend& backend,
                                   OpContext& context) const {
  indexer_.select(batch, work.block, work.indexer, work.positions.data(), backend, context);

  const int32_t heads = heads_;
  work.head_rows.assign(work.block, heads);

  // absorb: K_h^T q_nope
  backend.grouped_matmul({.x = in.query,
                          .row_ids = work.head_rows.row_ids.data(),
                          .x_stride = config_.qk_head_dim(),
                          .offsets = work.head_rows.offsets,
                          .weights = in.k_up_t,
                          .y = work.absorbed.data(),
                          .y_stride = config_.kv_lora_rank},
                         context);
  // attend
  backend.sparse_attention({.q = in.query,
                            .absorbed = work.absorbed.data(),
                            .positions = work.positions.data(),
                            .sequences = work.block,
                            .cache = in.latents,
                            .heads = heads,
                            .nope_dim = config_.qk_nope_head_dim,
                            .rope_dim = config_.qk_rope_head_dim,
                            .kv_lora_rank = config_.kv_lora_rank,
                            .num_positions = config_.index_topk,
                            .scale = in.scale,
                            .latents = work.latents.data()},
                           context);
  // values: V_h l_h
  backend.grouped_matmul({.x = work.latents.data(),
                          .x_stride = config_.kv_lora_rank,
                          .offsets = work.head_rows.offsets,
                          .weights = in.v_up,
                          .y = work.values.data(),
                          .y_stride = config_.v_head_dim},
                         context);
  backend.scatter_rows({.x = work.values.data(),
                        .row_ids = work.head_rows.row_ids.data(),
                        .y = in.attended,
                        .rows = work.head_rows.offsets.back(),
                        .cols = config_.v_head_dim},
                       context);
}

}  // namespace sluice
