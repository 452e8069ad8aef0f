// What the targets of the front door share: services over the bundled model's tokenizer and a queue that nobody
// empties.
#pragma once

#include <cstdlib>

#include "sluice/check.h"

#include "server/frontend.h"
#include "server/services.h"
#include "tests/support/source_file.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

class FuzzServices {
 public:
  FuzzServices() {
    Result<Tokenizer> loaded = Tokenizer::load(source_file("configs/demo-moe"));
    SLUICE_CHECK(loaded.ok(), "{}", loaded.status().to_string());
    tokenizer_.emplace(std::move(*loaded));
    frontend_.emplace(queue_, &*tokenizer_, clock_);
    model_.name = "demo-moe";
    model_.vocab_size = 4096;
    model_.context_length = 2048;
    model_.eos_token_ids = {1};
  }

  Services services() {
    return {.frontend = *frontend_,
            .queue = queue_,
            .model = model_,
            .tokenizer = &*tokenizer_,
            .chat_format = ChatFormat::kDeepSeekV31,
            .clock = clock_,
            .has_grammars = true};
  }

 private:
  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{}};
  std::optional<Tokenizer> tokenizer_;
  std::optional<Frontend> frontend_;
  ModelInfo model_;
};

// Whatever a client sends becomes a task within our limits, or an error that says something.
inline void expect_sound(const Result<CheckedRequest>& checked, const ModelInfo& model) {
  if (!checked.ok()) {
    SLUICE_CHECK(!checked.status().message().empty(), "an error without a word");
    return;
  }
  const Request& request = checked->task.request;
  SLUICE_CHECK(!request.prompt.empty() && std::ssize(request.prompt) < model.context_length, "{} tokens",
               request.prompt.size());
  for (const TokenId token : request.prompt) SLUICE_CHECK(token >= 0 && token < model.vocab_size, "token {}", token);
  SLUICE_CHECK(validate(request.sampling, model.vocab_size).ok(), "sampling");
  SLUICE_CHECK(validate(request.stop, model.vocab_size).ok(), "stop");
  SLUICE_CHECK(request.num_choices >= 1 && request.num_choices <= kMaxChoices, "{}", request.num_choices);
  if (checked->task.form) {
    SLUICE_CHECK(checked->task.form->text.size() <= 2 * kMaxFormBytes && !checked->task.form->field.empty(), "form");
  }
}

}  // namespace sluice
