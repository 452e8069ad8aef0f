#include "model/window_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/cache_layout.h"

namespace sluice {

namespace {

// Rows that choose together: a choice keeps a score for each row and entry, 64 MB for 64 rows at a million positions.
constexpr int32_t kBlockRows = 64;

int64_t slot_of(const ModelConfig& config, int32_t layer) {
  const auto begin = config.hybrid->compress_ratios.begin();
  return std::count(begin, begin + layer, config.hybrid->compress_ratios[static_cast<size_t>(layer)]);
}

}  // namespace

WindowAttention::Workspace::Workspace(const ModelConfig& config, int64_t max_rows) : indexer(config, max_rows) {
  const HybridConfig& hybrid = *config.hybrid;
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  const int64_t head_values = int64_t{config.num_attention_heads} * hybrid.head_dim;
  const int64_t block_rows = std::min<int64_t>(kBlockRows, max_rows);
  query_latent.resize(floats(config.q_lora_rank));
  query.resize(floats(head_values));
  vector.resize(floats(hybrid.head_dim));
  projected.resize(floats(BlockCompressor::projected_width(kSelectedRatio, hybrid.head_dim)));
  attended.resize(floats(head_values));
  offsets.resize(static_cast<size_t>(hybrid.o_groups) + 1);
  row_ids.resize(floats(hybrid.o_groups));
  grouped.resize(floats(int64_t{hybrid.o_groups} * hybrid.o_lora_rank));
  joined.resize(grouped.size());
  // Below index_topk entries nothing is chosen, so a larger index_topk than positions needs no room.
  entries.resize(static_cast<size_t>(block_rows * std::min(config.index_topk, config.max_position_embeddings)));
}

WindowAttention::WindowAttention(const ModelConfig& config, int32_t layer, WeightLoader& loader)
    : config_(config), layer_(layer), ratio_(config.hybrid->compress_ratios[static_cast<size_t>(layer)]) {
  const HybridConfig& hybrid = *config.hybrid;
  const std::string prefix = fmt::format("layers.{}.attn.", layer);
  const int64_t head_values = int64_t{config.num_attention_heads} * hybrid.head_dim;
  q_a_proj_ = loader.pack({loader.tensor(prefix + "wq_a.weight", config.q_lora_rank, config.hidden_size)});
  q_norm_ = loader.vector(prefix + "q_norm.weight", config.q_lora_rank);
  q_b_proj_ = loader.pack({loader.tensor(prefix + "wq_b.weight", head_values, config.q_lora_rank)});
  kv_proj_ = loader.pack({loader.tensor(prefix + "wkv.weight", hybrid.head_dim, config.hidden_size)});
  kv_norm_ = loader.vector(prefix + "kv_norm.weight", hybrid.head_dim);
  sinks_ = loader.vector(prefix + "attn_sink", config.num_attention_heads);
  std::vector<RowSource> groups;
  for (int64_t group = 0; group < hybrid.o_groups; ++group)
    groups.push_back(loader.slice(prefix + "wo_a.weight", group * hybrid.o_lora_rank, hybrid.o_lora_rank,
                                  head_values / hybrid.o_groups));
  o_a_proj_ = loader.pack(groups);
  o_b_proj_ = loader.pack(
      {loader.tensor(prefix + "wo_b.weight", config.hidden_size, int64_t{hybrid.o_groups} * hybrid.o_lora_rank)});
  if (ratio_ == 0) return;
  const bool chooses = ratio_ == kSelectedRatio;
  const int64_t slot = slot_of(config, layer);
  compressor_.emplace(config, prefix + "compressor.",
                      BlockCompressor::Shape{.ratio = ratio_,
                                             .dim = hybrid.head_dim,
                                             .entry_group = chooses ? kSelectedGroup : kGlobalGroup,
                                             .state_group = chooses ? kSelectedStateGroup : kGlobalStateGroup,
                                             .slot = slot},
                      loader);
  if (chooses) indexer_.emplace(config, layer, slot, loader);
}

int64_t WindowAttention::weight_bytes() const {
  return q_a_proj_.bytes() + q_b_proj_.bytes() + kv_proj_.bytes() + o_a_proj_.bytes() + o_b_proj_.bytes() +
         (compressor_ ? compressor_->weight_bytes() : 0) + (indexer_ ? indexer_->weight_bytes() : 0);
}

// Queries, normalised head by head and rotated, and the position's vector.
void WindowAttention::project(int64_t rows, const float* normed, const float* cos_sin, Workspace& work,
                              const Backend& backend, OpContext& context) const {
  const HybridConfig& hybrid = *config_.hybrid;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const int64_t rank = config_.q_lora_rank;
  const auto multiply = [&](const float* x, const Weight& weight, float* y) {
    backend.matmul({.x = x, .rows = rows, .x_stride = weight.cols, .weight = weight, .y = y, .y_stride = weight.rows},
                   context);
  };
  multiply(normed, q_a_proj_[0], work.query_latent.data());
  backend.rms_norm({.x = work.query_latent.data(),
                    .weight = q_norm_.data(),
                    .y = work.query_latent.data(),
                    .rows = rows,
                    .cols = rank,
                    .x_stride = rank,
                    .eps = eps},
                   context);
  multiply(work.query_latent.data(), q_b_proj_[0], work.query.data());
  backend.rms_norm({.x = work.query.data(),
                    .y = work.query.data(),
                    .rows = rows * config_.num_attention_heads,
                    .cols = hybrid.head_dim,
                    .x_stride = hybrid.head_dim,
                    .eps = eps},
                   context);
  backend.rope({.x = work.query.data(),
                .cos_sin = cos_sin,
                .rows = rows,
                .heads = config_.num_attention_heads,
                .head_dim = hybrid.head_dim,
                .offset = hybrid.head_dim - config_.qk_rope_head_dim,
                .dim = config_.qk_rope_head_dim,
                .layout = RopeLayout::kPair},
               context);
  multiply(normed, kv_proj_[0], work.vector.data());
}

// The rows above the split, some at a time: choose, then attend.
void WindowAttention::attend_chosen(const StepBatch& batch, WindowAttentionArgs& args, Workspace& work,
                                    const Backend& backend, OpContext& context) const {
  for_each_block(work.split.above, kBlockRows, work.block, [&] {
    indexer_->select(batch, work.block, work.indexer, work.entries.data(), backend, context);
    args.sequences = work.block;
    args.selected = work.entries.data();
    args.num_selected = config_.index_topk;
    backend.window_attention(args, context);
  });
}

// y = wo_b (block_g slice_g, for each group g of heads)
void WindowAttention::project_out(int64_t rows, Workspace& work, float* y, const Backend& backend,
                                  OpContext& context) const {
  const int64_t groups = config_.hybrid->o_groups, rank = config_.hybrid->o_lora_rank;
  for (int64_t group = 0; group < groups; ++group) {
    work.offsets[static_cast<size_t>(group)] = static_cast<int32_t>(group * rows);
    for (int64_t row = 0; row < rows; ++row)
      work.row_ids[static_cast<size_t>(group * rows + row)] = static_cast<int32_t>(row * groups + group);
  }
  work.offsets[static_cast<size_t>(groups)] = static_cast<int32_t>(groups * rows);
  backend.grouped_matmul({.x = work.attended.data(),
                          .row_ids = work.row_ids.data(),
                          .x_stride = o_a_proj_[0].cols,
                          .offsets = work.offsets,
                          .weights = o_a_proj_.all(),
                          .y = work.grouped.data(),
                          .y_stride = rank},
                         context);
  backend.scatter_rows({.x = work.grouped.data(),
                        .row_ids = work.row_ids.data(),
                        .y = work.joined.data(),
                        .rows = groups * rows,
                        .cols = rank},
                       context);
  backend.matmul({.x = work.joined.data(),
                  .rows = rows,
                  .x_stride = groups * rank,
                  .weight = o_b_proj_[0],
                  .y = y,
                  .y_stride = config_.hidden_size},
                 context);
}

void WindowAttention::forward(const StepBatch& batch, std::span<const SequenceSpan> spans, const float* normed,
                              const HybridAngles& angles, Workspace& work, float* y, const Backend& backend,
                              OpContext& context) const {
  const HybridConfig& hybrid = *config_.hybrid;
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const float* cos_sin = ratio_ == 0 ? angles.window : angles.position;
  project(rows, normed, cos_sin, work, backend, context);
  const LatentCache cache{.base = batch.kv.base + batch.kv.layout->offset_of(kWindowGroup, layer_),
                          .page_stride = batch.kv.bytes_per_page,
                          .dtype = batch.kv.dtype};
  backend.window_write({.z = work.vector.data(),
                        .norm_weight = kv_norm_.data(),
                        .eps = static_cast<float>(config_.rms_norm_eps),
                        .cos_sin = cos_sin,
                        .dim = hybrid.head_dim,
                        .rope_dim = config_.qk_rope_head_dim,
                        .sequences = spans,
                        .cache = cache},
                       context);
  const float* block_angles = ratio_ == kSelectedRatio ? angles.block4 : angles.block128;
  if (compressor_) compressor_->write(batch.kv, spans, rows, normed, block_angles, work.projected, backend, context);
  // With at most index_topk complete entries all would be chosen.
  int32_t choice_begin = std::numeric_limits<int32_t>::max();
  if (indexer_) {
    indexer_->keys().write(batch.kv, spans, rows, normed, block_angles, work.indexer.projected, backend, context);
    choice_begin = ratio_ * (config_.index_topk + 1) - 1;
  }
  work.split.assign(spans, choice_begin);
  WindowAttentionArgs attention{.q = work.query.data(),
                                .sinks = sinks_.data(),
                                .cos_sin = cos_sin,
                                .sequences = work.split.below,
                                .cache = cache,
                                .window = hybrid.sliding_window,
                                .compressed = compressor_ ? compressor_->cache_of(batch.kv) : CompressedCache(),
                                .heads = config_.num_attention_heads,
                                .dim = hybrid.head_dim,
                                .rope_dim = config_.qk_rope_head_dim,
                                .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(hybrid.head_dim))),
                                .out = work.attended.data()};
  if (!attention.sequences.empty()) backend.window_attention(attention, context);
  if (!work.split.above.empty()) {
    indexer_->project_queries(rows, normed, work.query_latent.data(), cos_sin, work.indexer, backend, context);
    attend_chosen(batch, attention, work, backend, context);
  }
  project_out(rows, work, y, backend, context);
}

}  // namespace sluice
