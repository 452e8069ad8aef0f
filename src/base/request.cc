// Ranges of what a client may ask, in one place for every front end.
#include "sluice/request.h"

#include <cmath>

namespace sluice {

namespace {

// `ok` is written so that NaN fails it.
Status in_range(const char* field, double value, bool ok, const char* range) {
  if (ok && std::isfinite(value)) return {};
  return invalid_argument("{}: must be {}, got {}", field, range, value);
}

Status token_in_vocabulary(const char* field, TokenId token, int32_t vocab_size) {
  if (token >= 0 && token < vocab_size) return {};
  return invalid_argument("{}: token id must be in [0, {}), got {}", field, vocab_size, token);
}

}  // namespace

Status validate(const SamplingParams& p, int32_t vocab_size) {
  SLUICE_RETURN_IF_ERROR(
      in_range("temperature", p.temperature, p.temperature >= 0 && p.temperature <= 100, "in [0, 100]"));
  SLUICE_RETURN_IF_ERROR(in_range("top_k", p.top_k, p.top_k >= 0, "at least 0"));
  SLUICE_RETURN_IF_ERROR(in_range("top_p", p.top_p, p.top_p > 0 && p.top_p <= 1, "in (0, 1]"));
  SLUICE_RETURN_IF_ERROR(in_range("min_p", p.min_p, p.min_p >= 0 && p.min_p <= 1, "in [0, 1]"));
  SLUICE_RETURN_IF_ERROR(in_range("repetition_penalty", p.repetition_penalty,
                                  p.repetition_penalty > 0 && p.repetition_penalty <= 10, "in (0, 10]"));
  SLUICE_RETURN_IF_ERROR(in_range("presence_penalty", p.presence_penalty,
                                  p.presence_penalty >= -2 && p.presence_penalty <= 2, "in [-2, 2]"));
  SLUICE_RETURN_IF_ERROR(in_range("frequency_penalty", p.frequency_penalty,
                                  p.frequency_penalty >= -2 && p.frequency_penalty <= 2, "in [-2, 2]"));
  for (const auto& [token, bias] : p.logit_bias) {
    SLUICE_RETURN_IF_ERROR(token_in_vocabulary("logit_bias", token, vocab_size));
    SLUICE_RETURN_IF_ERROR(in_range("logit_bias", bias, bias >= -100 && bias <= 100, "in [-100, 100]"));
  }
  return {};
}

Status validate(const StopParams& p, int32_t vocab_size) {
  SLUICE_RETURN_IF_ERROR(in_range("max_tokens", p.max_tokens, p.max_tokens >= 1, "at least 1"));
  SLUICE_RETURN_IF_ERROR(
      in_range("min_tokens", p.min_tokens, p.min_tokens >= 0 && p.min_tokens <= p.max_tokens, "in [0, max_tokens]"));
  for (TokenId token : p.stop_token_ids)
    SLUICE_RETURN_IF_ERROR(token_in_vocabulary("stop_token_ids", token, vocab_size));
  return {};
}

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kDeadline:
      return "deadline";
    case FinishReason::kError:
      return "error";
  }
  return "?";
}

}  // namespace sluice
