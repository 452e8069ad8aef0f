// Renders deltas and the end of an answer as messages of the native protocol. Pure functions, any thread, and the
// renderer of one answer made of them.
#pragma once

#include <memory>
#include <string>

#include "sluice/request.h"
#include "sluice/v1/inference.pb.h"

#include "server/answer_renderer.h"
#include "server/services.h"
#include "server/validate.h"

namespace sluice {

// What an answer repeats of its request, kept by the call.
struct AnswerHead {
  std::string request_id;
  std::string model;
  uint64_t seed = 0;
  bool echo = false;
  bool prompt_logprobs = false;
  std::string prompt_text;
  std::vector<TokenId> prompt;  // with echo or prompt_logprobs
};

AnswerHead head_of(const CheckedRequest& checked, const std::string& request_id, const ModelInfo& model);

// `tokenizer` may be null: log-probabilities then come without bytes. `first` adds the prompt where it was asked for.
v1::Answer to_proto(AnswerStream::Batch batch, const AnswerHead& head, bool first, const Tokenizer* tokenizer);

std::unique_ptr<AnswerRenderer> native_renderer(const CheckedRequest& checked, const Services& services);

v1::Model model_to_proto(const Services& services);

}  // namespace sluice
