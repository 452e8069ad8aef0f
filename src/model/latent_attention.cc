#include "model/latent_attention.h"

#include <limits>

#include "sluice/quantize.h"

#include "model/cache_layout.h"
#include "model/rope.h"

namespace sluice {

namespace {

// The inner norms of V2 and V3 use their class default, not the config's rms_norm_eps.
constexpr float kInnerNormEps = 1e-6f;

}  // namespace

LatentAttention::Workspace::Workspace(const ModelConfig& config, const Partition& partition, int64_t max_rows) {
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  query_latent.resize(floats(config.q_lora_rank));
  query.resize(floats(partition.heads.size() * config.qk_head_dim()));
  kv_latent.resize(floats(config.latent_dim()));
  attended.resize(floats(partition.heads.size() * config.v_head_dim));
  if (config.index_topk > 0) sparse.emplace(config, partition, max_rows);
  if (config.block_global) blocks.emplace(config, max_rows);
}

LatentAttention::LatentAttention(const ModelConfig& config, const Partition& partition, int32_t layer,
                                 DType cache_dtype, WeightLoader& loader)
    : config_(config),
      layer_(layer),
      heads_(static_cast<int32_t>(partition.heads.size())),
      scale_(softmax_scale(config)),
      layout_(config.rope_interleave ? RopeLayout::kPair : RopeLayout::kHalf) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
  const Slice q_rows = partition.heads.times(config.qk_head_dim());
  if (config.q_lora_rank > 0) {
    q_a_proj_ = loader.pack({loader.tensor(prefix + "q_a_proj.weight", config.q_lora_rank, config.hidden_size)});
    q_a_norm_ = loader.vector(prefix + "q_a_layernorm.weight", config.q_lora_rank);
    q_proj_ = loader.pack({loader.rows_of(prefix + "q_b_proj.weight", q_rows, config.q_lora_rank)});
  } else {
    q_proj_ = loader.pack({loader.rows_of(prefix + "q_proj.weight", q_rows, config.hidden_size)});
  }
  kv_a_proj_ =
      loader.pack({loader.tensor(prefix + "kv_a_proj_with_mqa.weight", config.latent_dim(), config.hidden_size)});
  kv_a_norm_ = loader.vector(prefix + "kv_a_layernorm.weight", config.kv_lora_rank);

  // kv_b_proj [heads * (nope + v), kv_lora_rank]: per head first the keys' rows, then the values'.
  const std::string kv_b = prefix + "kv_b_proj.weight";
  std::vector<RowSource> k_up, k_up_t, v_up;
  for (int64_t head = partition.heads.begin; head < partition.heads.end; ++head) {
    const int64_t row = head * (config.qk_nope_head_dim + config.v_head_dim);
    k_up.push_back(loader.slice(kv_b, row, config.qk_nope_head_dim, config.kv_lora_rank));
    k_up_t.push_back(loader.transposed(kv_b, row, config.qk_nope_head_dim, config.kv_lora_rank));
    v_up.push_back(loader.slice(kv_b, row + config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank));
  }
  const bool wide = cache_dtype == DType::kF32 && loader.format() == WeightFormat::kF32;
  const WeightFormat expanded = wide ? WeightFormat::kF32 : WeightFormat::kBF16;
  const WeightFormat absorbed = is_quantized(loader.format()) ? WeightFormat::kInt8 : expanded;
  k_up_ = loader.pack_as(k_up, expanded);
  k_up_t_ = loader.pack_as(k_up_t, absorbed);
  v_up_ = loader.pack_as(v_up, expanded);
  if (absorbed != expanded) v_up_absorbed_ = loader.pack_as(v_up, absorbed);
  o_proj_ = loader.pack({loader.columns_of(prefix + "o_proj.weight", config.hidden_size,
                                           partition.heads.times(config.v_head_dim),
                                           int64_t{config.num_attention_heads} * config.v_head_dim)});
  if (config.index_topk > 0) sparse_.emplace(config, partition, layer, loader);
  if (config.block_global && !config.block_global->is_full(layer)) blocks_.emplace(config, layer);
}

int64_t LatentAttention::weight_bytes() const {
  return (q_a_proj_ ? q_a_proj_->bytes() : 0) + q_proj_.bytes() + kv_a_proj_.bytes() + k_up_.bytes() + k_up_t_.bytes() +
         v_up_.bytes() + (v_up_absorbed_ ? v_up_absorbed_->bytes() : 0) + o_proj_.bytes() +
         (sparse_ ? sparse_->weight_bytes() : 0);
}

void LatentAttention::project_query(int64_t rows, const float* normed, Workspace& work, const Backend& backend,
                                    OpContext& context) const {
  const float* source = normed;
  if (q_a_proj_) {
    const int64_t rank = config_.q_lora_rank;
    float* latent = work.query_latent.data();
    backend.matmul({.x = normed,
                    .rows = rows,
                    .x_stride = config_.hidden_size,
                    .weight = (*q_a_proj_)[0],
                    .y = latent,
                    .y_stride = rank},
                   context);
    backend.rms_norm({.x = latent,
                      .weight = q_a_norm_.data(),
                      .y = latent,
                      .rows = rows,
                      .cols = rank,
                      .x_stride = rank,
                      .eps = kInnerNormEps},
                     context);
    source = latent;
  }
  backend.matmul({.x = source,
                  .rows = rows,
                  .x_stride = q_proj_[0].cols,
                  .weight = q_proj_[0],
                  .y = work.query.data(),
                  .y_stride = q_proj_[0].rows},
                 context);
}

void LatentAttention::project_latent(int64_t rows, const float* normed, Workspace& work, const Backend& backend,
                                     OpContext& context) const {
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = config_.hidden_size,
                  .weight = kv_a_proj_[0],
                  .y = work.kv_latent.data(),
                  .y_stride = config_.latent_dim()},
                 context);
}

LatentCache LatentAttention::latents_of(const KvPages& kv) const {
  return {.base = kv.base + kv.layout->offset_of(kLatentGroup, layer_),
          .page_stride = kv.bytes_per_page,
          .dtype = kv.dtype};
}

void LatentAttention::write_means(const StepBatch& batch, std::span<const SequenceSpan> spans, const Backend& backend,
                                  OpContext& context) const {
  if (blocks_ && !spans.empty()) blocks_->write_means(batch, spans, latents_of(batch.kv), backend, context);
}

void LatentAttention::attend(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work,
                             const Backend& backend, OpContext& context) const {
  const LatentCache cache = latents_of(batch.kv);
  LatentWriteArgs write{.z = work.kv_latent.data(),
                        .norm_weight = kv_a_norm_.data(),
                        .eps = kInnerNormEps,
                        .cos_sin = cos_sin,
                        .layout = layout_,
                        .kv_lora_rank = config_.kv_lora_rank,
                        .rope_dim = config_.qk_rope_head_dim,
                        .sequences = {},
                        .cache = cache};
  for (const std::span<const SequenceSpan> spans : {batch.prompt_spans, batch.generated_spans}) {
    if (spans.empty()) continue;
    write.sequences = spans;
    backend.latent_write(write, context);
    write_means(batch, spans, backend, context);
  }

  constexpr int32_t kNoPosition = std::numeric_limits<int32_t>::max();
  const int32_t dense_end = sparse_   ? config_.index_topk
                            : blocks_ ? config_.block_global->pages * kPageTokens
                                      : kNoPosition;
  work.prompt.assign(batch.prompt_spans, dense_end);
  work.generated.assign(batch.generated_spans, dense_end);
  LatentAttentionArgs dense{.q = work.query.data(),
                            .out = work.attended.data(),
                            .sequences = work.prompt.below,
                            .cache = cache,
                            .heads = heads_,
                            .nope_dim = config_.qk_nope_head_dim,
                            .rope_dim = config_.qk_rope_head_dim,
                            .v_dim = config_.v_head_dim,
                            .kv_lora_rank = config_.kv_lora_rank,
                            .scale = scale_,
                            .k_up = k_up_.all(),
                            .k_up_t = k_up_t_.all(),
                            .v_up = v_up_.all()};
  if (!dense.sequences.empty()) backend.latent_attention_expanded(dense, context);
  dense.sequences = work.generated.below;
  if (v_up_absorbed_) dense.v_up = v_up_absorbed_->all();
  if (!dense.sequences.empty()) backend.latent_attention_absorbed(dense, context);
  work.prompt.above.insert(work.prompt.above.end(), work.generated.above.begin(), work.generated.above.end());
  if (blocks_) blocks_->forward(batch, work.prompt.above, dense, *work.blocks, backend, context);
  if (!sparse_) return;
  const SparseAttention::Inputs inputs{.normed = normed,
                                       .query_latent = work.query_latent.data(),
                                       .query = work.query.data(),
                                       .cos_sin = cos_sin,
                                       .latents = cache,
                                       .scale = scale_,
                                       .k_up_t = k_up_t_.all(),
                                       .v_up = dense.v_up,
                                       .attended = work.attended.data()};
  sparse_->forward(batch, work.prompt.above, inputs, *work.sparse, backend, context);
}

void LatentAttention::forward(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work,
                              float* x, const Backend& backend, OpContext& context) const {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  project_query(rows, normed, work, backend, context);
  backend.rope({.x = work.query.data(),
                .cos_sin = cos_sin,
                .rows = rows,
                .heads = heads_,
                .head_dim = config_.qk_head_dim(),
                .offset = config_.qk_nope_head_dim,
                .dim = config_.qk_rope_head_dim,
                .layout = layout_},
               context);
  project_latent(rows, normed, work, backend, context);
  attend(batch, normed, cos_sin, work, backend, context);
  backend.matmul({.x = work.attended.data(),
                  .rows = rows,
                  .x_stride = o_proj_[0].cols,
                  .weight = o_proj_[0],
                  .y = x,
                  .y_stride = config_.hidden_size,
                  .add = true},
                 context);
}

}  // namespace sluice
