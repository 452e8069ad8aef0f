// What block attention costs in quality, beside whatever it saves: how well a model predicts a text with and without
// it. A measured model may be a bare shape, or know more positions than any trained one at hand, so the text is read by
// a model of its own, at the same share of the pages.
#pragma once

#include <map>
#include <string>

#include "app/loaded_model.h"

namespace sluice {

// Pages that a token attends to at the end of a context of `context_pages`, when the share is that of mode.pages at
// `depth_pages`: at least what the first and last pages and one more take, at most all (which is full attention).
int32_t pages_at_same_share(const BlockGlobalConfig& mode, int32_t depth_pages, int32_t context_pages);

class QualityMeter {
 public:
  // `options` say threads and device; the model is its own. `window`: tokens predicted from one beginning; 0: as many as
  // that model's context holds beside a begin-of-sequence token and an answer.
  static Result<QualityMeter> open(const Options& options, const std::string& model, const std::string& text_file,
                                   int32_t window);

  // Perplexity over the text; without a mode in full attention. Asked twice for the same, answers from memory.
  Result<double> perplexity(const std::optional<BlockGlobalConfig>& mode);

  int32_t window() const { return window_; }
  int32_t context_pages() const { return window_ / kPageTokens + 1; }

 private:
  QualityMeter() = default;

  Options options_;
  std::string text_;
  int32_t window_ = 0;
  std::map<std::string, double> known_;
};

}  // namespace sluice
