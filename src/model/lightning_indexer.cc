#include "model/lightning_indexer.h"

#include "model/cache_layout.h"

namespace sluice {

namespace {

// The LayerNorm of the keys has this of its own, not the config's rms_norm_eps.
constexpr float kKeyNormEps = 1e-6f;

}  // namespace

LightningIndexer::Workspace::Workspace(const ModelConfig& config, int64_t max_rows) {
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  key.resize(floats(config.index_head_dim));
  query.resize(floats(int64_t{config.index_n_heads} * config.index_head_dim));
  weights.resize(floats(config.index_n_heads));
}

LightningIndexer::LightningIndexer(const ModelConfig& config, int32_t layer, WeightLoader& loader)
    : config_(config), layer_(layer) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.indexer.", layer);
  const int64_t heads = config.index_n_heads, dim = config.index_head_dim;
  const std::string weights = prefix + "weights_proj.weight";
  query_proj_ = loader.pack({loader.tensor(prefix + "wq_b.weight", heads * dim, config.q_lora_rank)});
  key_proj_ = loader.pack({loader.tensor(prefix + "wk.weight", dim, config.hidden_size)});
  weights_proj_ =
      loader.pack_exact({loader.tensor(weights, heads, config.hidden_size)}, loader.checkpoint().dtype(weights));
  key_norm_ = loader.vector(prefix + "k_norm.weight", dim);
  key_bias_ = loader.vector(prefix + "k_norm.bias", dim);
}

LatentCache LightningIndexer::cache_of(const KvPages& kv) const {
  return {
      .base = kv.base + kv.layout->offset_of(kIndexGroup, layer_), .page_stride = kv.bytes_per_page, .dtype = kv.dtype};
}

void LightningIndexer::write_keys(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work,
                                  const Backend& backend, OpContext& context) const {
  backend.matmul({.x = normed,
                  .rows = static_cast<int64_t>(batch.tokens.size()),
                  .x_stride = config_.hidden_size,
                  .weight = key_proj_[0],
                  .y = work.key.data(),
                  .y_stride = config_.index_head_dim},
                 context);
  for (const std::span<const SequenceSpan> spans : {batch.prompt_spans, batch.generated_spans}) {
    if (spans.empty()) continue;
    backend.index_write({.z = work.key.data(),
                         .norm_weight = key_norm_.data(),
                         .norm_bias = key_bias_.data(),
                         .eps = kKeyNormEps,
                         .cos_sin = cos_sin,
                         .layout = RopeLayout::kHalf,  // whatever the main attention's
                         .head_dim = config_.index_head_dim,
                         .rope_dim = config_.qk_rope_head_dim,
                         .sequences = spans,
                         .cache = cache_of(batch.kv)},
                        context);
  }
}

void LightningIndexer::project_queries(int64_t rows, const float* normed, const float* query_latent,
                                       const float* cos_sin, Workspace& work, const Backend& backend,
                                       OpContext& context) const {
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
                .offset = 0,
                .dim = config_.qk_rope_head_dim,
                .layout = RopeLayout::kHalf},
               context);
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = config_.hidden_size,
                  .weight = weights_proj_[0],
                  .y = work.weights.data(),
                  .y_stride = config_.index_n_heads},
                 context);
}

void LightningIndexer::select(const StepBatch& batch, std::span<const SequenceSpan> spans, const Workspace& work,
                              int32_t* positions, const Backend& backend, OpContext& context) const {
  backend.index_select({.q = work.query.data(),
                        .weights = work.weights.data(),
                        .sequences = spans,
                        .cache = cache_of(batch.kv),
                        .heads = config_.index_n_heads,
                        .head_dim = config_.index_head_dim,
                        .top_k = config_.index_topk,
                        .positions = positions},
                       context);
  if (batch.observer && batch.observer->selected)
    batch.observer->selected(layer_, spans, config_.index_topk, positions);
}

}  // namespace sluice
