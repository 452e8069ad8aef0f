#include "model/grouped_attention.h"

#include <limits>

#include "model/cache_layout.h"
#include "model/rope.h"

namespace sluice {

namespace {

constexpr int32_t kLaneMultiple = 16;  // what kernels ask of a head's width

}  // namespace

Status GroupedAttention::check_supported(const ModelConfig& config, const Backend& backend) {
  if (backend.grouped_attention_prompt == nullptr)
    return failed_precondition("config.json: model_type: {} is not supported on device {}", config.model_type,
                               backend.name);
  if (config.grouped->head_dim % kLaneMultiple == 0) return {};
  return failed_precondition("config.json: head_dim: expected a multiple of {}, found {}", kLaneMultiple,
                             config.grouped->head_dim);
}

GroupedAttention::Workspace::Workspace(const ModelConfig& config, int64_t max_rows) {
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  query.resize(floats(int64_t{config.num_attention_heads} * config.grouped->head_dim));
  key.resize(floats(config.grouped->width()));
  value.resize(key.size());
  attended.resize(query.size());
  if (config.block_global) blocks.emplace(config, max_rows);
}

GroupedAttention::GroupedAttention(const ModelConfig& config, int32_t layer, WeightLoader& loader)
    : config_(config), layer_(layer) {
  const std::string prefix = fmt::format("model.layers.{}.self_attn.", layer);
  const int64_t hidden = config.hidden_size, dim = config.grouped->head_dim;
  const int64_t q_width = config.num_attention_heads * dim, kv_width = config.grouped->width();
  q_proj_ = loader.pack({loader.tensor(prefix + "q_proj.weight", q_width, hidden)});
  k_proj_ = loader.pack({loader.tensor(prefix + "k_proj.weight", kv_width, hidden)});
  v_proj_ = loader.pack({loader.tensor(prefix + "v_proj.weight", kv_width, hidden)});
  o_proj_ = loader.pack({loader.tensor(prefix + "o_proj.weight", hidden, q_width)});
  q_norm_ = loader.vector(prefix + "q_norm.weight", dim);
  k_norm_ = loader.vector(prefix + "k_norm.weight", dim);
  if (config.block_global && !config.block_global->is_full(layer)) blocks_.emplace(config, layer);
}

// Queries and keys per head: norm, then rotation.
void GroupedAttention::project(int64_t rows, const float* normed, const float* cos_sin, Workspace& work,
                               const Backend& backend, OpContext& context) const {
  const auto multiply = [&](const PackedMatrices& matrix, Activations<float>& y) {
    backend.matmul({.x = normed,
                    .rows = rows,
                    .x_stride = config_.hidden_size,
                    .weight = matrix[0],
                    .y = y.data(),
                    .y_stride = matrix[0].rows},
                   context);
  };
  const auto norm_and_rotate = [&](Activations<float>& x, int32_t heads, const std::vector<float>& norm) {
    const int32_t dim = config_.grouped->head_dim;
    backend.rms_norm({.x = x.data(),
                      .weight = norm.data(),
                      .y = x.data(),
                      .rows = rows * heads,
                      .cols = dim,
                      .x_stride = dim,
                      .eps = static_cast<float>(config_.rms_norm_eps)},
                     context);
    backend.rope({.x = x.data(),
                  .cos_sin = cos_sin,
                  .rows = rows,
                  .heads = heads,
                  .head_dim = dim,
                  .offset = 0,
                  .dim = dim,
                  .layout = RopeLayout::kHalf},
                 context);
  };
  multiply(q_proj_, work.query);
  multiply(k_proj_, work.key);
  multiply(v_proj_, work.value);
  norm_and_rotate(work.query, config_.num_attention_heads, q_norm_);
  norm_and_rotate(work.key, config_.grouped->kv_heads, k_norm_);
}

LatentCache GroupedAttention::cache_of(const KvPages& kv, size_t group) const {
  return {.base = kv.base + kv.layout->offset_of(group, layer_), .page_stride = kv.bytes_per_page, .dtype = kv.dtype};
}

void GroupedAttention::write_means(const StepBatch& batch, std::span<const SequenceSpan> spans, const Backend& backend,
                                   OpContext& context) const {
  if (blocks_ && !spans.empty()) blocks_->write_means(batch, spans, cache_of(batch.kv, kKeysGroup), backend, context);
}

void GroupedAttention::attend(const StepBatch& batch, Workspace& work, const Backend& backend,
                              OpContext& context) const {
  const LatentCache keys = cache_of(batch.kv, kKeysGroup), values = cache_of(batch.kv, kValuesGroup);
  for (const std::span<const SequenceSpan> spans : {batch.prompt_spans, batch.generated_spans}) {
    if (spans.empty()) continue;
    backend.key_value_write({.k = work.key.data(),
                             .v = work.value.data(),
                             .width = config_.grouped->width(),
                             .sequences = spans,
                             .keys = keys,
                             .values = values},
                            context);
    write_means(batch, spans, backend, context);
  }
  const int32_t dense_end = blocks_ ? config_.block_global->pages * kPageTokens : std::numeric_limits<int32_t>::max();
  work.prompt.assign(batch.prompt_spans, dense_end);
  work.generated.assign(batch.generated_spans, dense_end);
  GroupedAttentionArgs args{.q = work.query.data(),
                            .out = work.attended.data(),
                            .sequences = work.prompt.below,
                            .keys = keys,
                            .values = values,
                            .heads = config_.num_attention_heads,
                            .kv_heads = config_.grouped->kv_heads,
                            .head_dim = config_.grouped->head_dim,
                            .scale = softmax_scale(config_)};
  if (!args.sequences.empty()) backend.grouped_attention_prompt(args, context);
  args.sequences = work.generated.below;
  if (!args.sequences.empty()) backend.grouped_attention_generated(args, context);
  if (!blocks_) return;
  work.prompt.above.insert(work.prompt.above.end(), work.generated.above.begin(), work.generated.above.end());
  blocks_->forward(batch, work.prompt.above, args, *work.blocks, backend, context);
}

void GroupedAttention::forward(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work,
                               float* x, const Backend& backend, OpContext& context) const {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  project(rows, normed, cos_sin, work, backend, context);
  attend(batch, work, backend, context);
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
