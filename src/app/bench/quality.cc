#include "app/bench/quality.h"

#include <algorithm>
#include <cmath>

#include "app/files.h"
#include "app/perplexity.h"

namespace sluice {

int32_t pages_at_same_share(const BlockGlobalConfig& mode, int32_t depth_pages, int32_t context_pages) {
  if (depth_pages <= mode.pages) return context_pages;
  const double share = static_cast<double>(mode.pages) / depth_pages;
  const auto pages = static_cast<int32_t>(std::lround(share * context_pages));
  return std::clamp(pages, std::min(mode.sink_pages + mode.window_pages + 1, context_pages), context_pages);
}

Result<QualityMeter> QualityMeter::open(const Options& options, const std::string& model, const std::string& text_file,
                                        int32_t window) {
  QualityMeter meter;
  SLUICE_ASSIGN_OR_RETURN(meter.text_, read_file(text_file));
  meter.options_.model = model;
  meter.options_.threads = options.threads;
  meter.options_.device = options.device;
  meter.options_.cache_enabled = false;
  std::string directory = model;
  if (directory.empty()) {
    SLUICE_ASSIGN_OR_RETURN(directory, bundled_model());
  }
  SLUICE_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::load(directory));
  meter.window_ = window > 0 ? window : config.max_position_embeddings - 2;
  return meter;
}

Result<double> QualityMeter::perplexity(const std::optional<BlockGlobalConfig>& mode) {
  Options options = options_;
  std::string key = "full";
  if (mode) {
    options.attention = "block_global";
    options.block_global_pages = mode->pages;
    options.block_global_sink_pages = mode->sink_pages;
    options.block_global_window_pages = mode->window_pages;
    options.block_global_full_every = mode->full_every;
    key = fmt::format("{} {} {} {}", mode->pages, mode->sink_pages, mode->window_pages, mode->full_every);
  }
  if (const auto found = known_.find(key); found != known_.end()) return found->second;
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(options));
  SLUICE_ASSIGN_OR_RETURN(const PredictedText predicted, predict_text(*loaded, options, text_, window_));
  return known_[key] = predicted.perplexity();
}

}  // namespace sluice
