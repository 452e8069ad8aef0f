// How well a model predicts a text. The method of the recorded goldens: the whole text encoded without special tokens,
// cut into windows, the begin-of-sequence token put before each, every token of a window predicted.
#pragma once

#include <cmath>
#include <string>

#include "app/loaded_model.h"

namespace sluice {

struct PredictedText {
  double nll = 0;  // sum over tokens of the negative log-likelihood
  int64_t tokens = 0;

  double mean() const { return nll / static_cast<double>(tokens); }
  double perplexity() const { return std::exp(mean()); }
};

// INVALID_ARGUMENT for an empty text or a window beyond the model's context.
Result<PredictedText> predict_text(LoadedModel& loaded, const Options& options, const std::string& text,
                                   int32_t window = 256);

}  // namespace sluice
