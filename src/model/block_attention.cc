#include "model/block_attention.h"

#include <algorithm>

#include "model/cache_layout.h"

namespace sluice {

namespace {

// Rows of a block, as in sparse attention; the masses of 64 rows at a context of 64k take 4 MB for 16 heads.
constexpr int32_t kBlockRows = 64;

}  // namespace

Status BlockAttention::check(const ModelConfig& config) {
  if (!config.block_global) return {};
  const BlockGlobalConfig& mode = *config.block_global;
  if (config.index_topk > 0 || config.hybrid)
    return failed_precondition("attention: block_global is for models with full attention; {} chooses for itself",
                               config.model_type);
  if (mode.sink_pages + mode.window_pages >= mode.pages)
    return invalid_argument(
        "block_global.pages: expected more than sink_pages ({}) and window_pages ({}) together, found {}",
        mode.sink_pages, mode.window_pages, mode.pages);
  if (mode.full_every == 1)
    return invalid_argument("block_global.full_every: 1 keeps every layer full; that is attention: full");
  return {};
}

BlockAttention::BlockAttention(const ModelConfig& config, int32_t layer)
    : config_(config), options_(*config.block_global), layer_(layer), slot_(layer - options_.num_full(layer)) {
  SLUICE_CHECK(!options_.is_full(layer), "layer {} is full", layer);
}

BlockAttention::Workspace::Workspace(const ModelConfig& config, int64_t max_rows) {
  const int64_t rows = std::min<int64_t>(kBlockRows, max_rows);
  // A context of fewer pages than may be chosen never chooses.
  const int64_t num_pages = std::min(config.block_global->pages, config.max_position_embeddings / kPageTokens + 1);
  absorbed.resize(static_cast<size_t>(config.num_attention_heads * rows * config.kv_lora_rank));
  chosen.resize(static_cast<size_t>(rows * num_pages));
  pages.resize(chosen.size());
}

LatentCache BlockAttention::means_of(const KvPages& kv) const {
  const size_t group = config_.grouped ? kKeyMeansGroup : kMeansGroup;
  return {.base = kv.base + kv.layout->offset_of(group, slot_), .page_stride = kv.bytes_per_page, .dtype = kv.dtype};
}

void BlockAttention::write_means(const StepBatch& batch, std::span<const SequenceSpan> spans,
                                 const LatentCache& entries, const Backend& backend, OpContext& context) const {
  const int32_t width = config_.grouped ? config_.grouped->width() : config_.latent_dim();
  backend.block_means({.sequences = spans, .cache = entries, .means = means_of(batch.kv), .width = width}, context);
}

void BlockAttention::forward(const StepBatch& batch, std::span<const SequenceSpan> spans,
                             const LatentAttentionArgs& attention, Workspace& work, const Backend& backend,
                             OpContext& context) const {
  for_each_block(spans, kBlockRows, work.block, [&] {
    work.head_rows.assign(work.block, config_.num_attention_heads);
    // The attention kernel absorbs once more: 2 % of a decode step, and less than what handing the product over would
    // tie together.
    backend.grouped_matmul({.x = attention.q,
                            .row_ids = work.head_rows.row_ids.data(),
                            .x_stride = config_.qk_head_dim(),
                            .offsets = work.head_rows.offsets,
                            .weights = attention.k_up_t,
                            .y = work.absorbed.data(),
                            .y_stride = config_.kv_lora_rank},
                           context);
    choose(batch,
           {.q = attention.q,
            .absorbed = work.absorbed.data(),
            .sequences = {},
            .means = {},
            .nope_dim = config_.qk_nope_head_dim,
            .rope_dim = config_.qk_rope_head_dim,
            .kv_lora_rank = config_.kv_lora_rank,
            .scale = attention.scale},
           work, backend, context);
    LatentAttentionArgs chosen = attention;
    chosen.sequences = work.short_;
    backend.latent_attention_absorbed(chosen, context);
  });
}

void BlockAttention::forward(const StepBatch& batch, std::span<const SequenceSpan> spans,
                             const GroupedAttentionArgs& attention, Workspace& work, const Backend& backend,
                             OpContext& context) const {
  for_each_block(spans, kBlockRows, work.block, [&] {
    choose(batch,
           {.q = attention.q,
            .sequences = {},
            .means = {},
            .rope_dim = attention.head_dim,
            .groups = attention.kv_heads,
            .scale = attention.scale},
           work, backend, context);
    GroupedAttentionArgs chosen = attention;
    chosen.sequences = work.short_;
    backend.grouped_attention_generated(chosen, context);
  });
}

void BlockAttention::choose(const StepBatch& batch, BlockSelectArgs query, Workspace& work, const Backend& backend,
                            OpContext& context) const {
  const int32_t num_pages = options_.pages;
  query.sequences = work.block;
  query.means = means_of(batch.kv);
  query.heads = config_.num_attention_heads;
  query.num_pages = num_pages;
  query.sink_pages = options_.sink_pages;
  query.window_pages = options_.window_pages;
  query.pages = work.chosen.data();
  backend.block_select(query, context);
  if (batch.observer && batch.observer->selected)
    batch.observer->selected(layer_, work.block, num_pages, work.chosen.data());
  work.short_.clear();
  for (const SequenceSpan& span : work.block) {
    for (int32_t t = span.position_begin; t < span.position_end; ++t) {
      const size_t at = work.short_.size() * static_cast<size_t>(num_pages);
      for (size_t j = at; j < at + static_cast<size_t>(num_pages); ++j) work.pages[j] = span.pages[work.chosen[j]];
      const int32_t position = (num_pages - 1) * kPageTokens + t % kPageTokens;
      work.short_.push_back({span.row_begin + t - span.position_begin, position, position + 1, &work.pages[at]});
    }
  }
}

}  // namespace sluice
