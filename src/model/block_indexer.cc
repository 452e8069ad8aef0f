#include "model/block_indexer.h"

#include "model/cache_layout.h"

namespace sluice {

BlockIndexer::Workspace::Workspace(const ModelConfig& config, int64_t max_rows) {
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  projected.resize(floats(BlockCompressor::projected_width(kSelectedRatio, config.index_head_dim)));
  query.resize(floats(int64_t{config.index_n_heads} * config.index_head_dim));
  weights.resize(floats(config.index_n_heads));
}

BlockIndexer::BlockIndexer(const ModelConfig& config, int32_t layer, int64_t slot, WeightLoader& loader)
    : config_(config),
      layer_(layer),
      keys_(config, fmt::format("layers.{}.attn.indexer.compressor.", layer),
            {.ratio = kSelectedRatio,
             .dim = config.index_head_dim,
             .entry_group = kBlockKeyGroup,
             .state_group = kBlockKeyStateGroup,
             .slot = slot},
            loader) {
  const std::string prefix = fmt::format("layers.{}.attn.indexer.", layer);
  query_proj_ = loader.pack({loader.tensor(prefix + "wq_b.weight",
                                           int64_t{config.index_n_heads} * config.index_head_dim, config.q_lora_rank)});
  const std::string weights = prefix + "weights_proj.weight";
  weights_proj_ = loader.pack_exact({loader.tensor(weights, config.index_n_heads, config.hidden_size)},
                                    loader.checkpoint().dtype(weights));
}

void BlockIndexer::project_queries(int64_t rows, const float* normed, const float* query_latent, const float* cos_sin,
                                   Workspace& work, const Backend& backend, OpContext& context) const {
  backend.matmul({.x = query_latent,
                  .rows = rows,
                  .x_stride = config_.q_lora_rank,
                  .weight = query_proj_[0],
                  .y = work.query.data(),
                  .y_stride = query_proj_[0].rows},
                 context);
  backend.rope({.x = work.query.data(),
                .cos_sin = cos_sin,
                .rows = rows,
                .heads = config_.index_n_heads,
                .head_dim = config_.index_head_dim,
                .offset = config_.index_head_dim - config_.qk_rope_head_dim,
                .dim = config_.qk_rope_head_dim,
                .layout = RopeLayout::kPair},
               context);
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = config_.hidden_size,
                  .weight = weights_proj_[0],
                  .y = work.weights.data(),
                  .y_stride = config_.index_n_heads},
                 context);
}

void BlockIndexer::select(const StepBatch& batch, std::span<const SequenceSpan> spans, const Workspace& work,
                          int32_t* entries, const Backend& backend, OpContext& context) const {
  backend.index_select({.q = work.query.data(),
                        .weights = work.weights.data(),
                        .sequences = spans,
                        .cache = keys_.cache_of(batch.kv).entries,
                        .heads = config_.index_n_heads,
                        .head_dim = config_.index_head_dim,
                        .top_k = config_.index_topk,
                        .ratio = kSelectedRatio,
                        .positions = entries},
                       context);
  if (batch.observer && batch.observer->selected) batch.observer->selected(layer_, spans, config_.index_topk, entries);
}

}  // namespace sluice
