// A request inside the scheduler: what the client asked, and its choices in the making. Owns the sequences.
// Owned by the scheduler; loop thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "sluice/clock.h"
#include "sluice/request.h"

#include "scheduler/sequence.h"

namespace sluice {

struct RequestState {
  Request request;
  int64_t order = 0;              // who comes first, smallest first (policy.h)
  std::vector<TokenId> stop_ids;  // end-of-sequence ids unless ignored, then the client's
  // [num_choices]; all but the first are null until the prompt is computed (or found) and they fork from it.
  std::vector<std::unique_ptr<Sequence>> choices;
  bool forked = false;
  int32_t num_open = 0;              // choices without their closing event
  bool was_admitted = false;         // its place in the door's queue is given back
  TimePoint started = kNever;        // first step that computes it
  int32_t cached_prompt_tokens = 0;  // found at the first admission
  std::vector<float> prompt_hidden;  // [hidden_size] of the prompt's last token, where choices draw from it
  // Gathered over the chunks of the prompt; goes out with the first event. Entry i is for prompt token i.
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;
  bool wants_prompt_logprobs = false;  // and they have not gone out yet

  int32_t num_unforked() const { return forked ? 0 : static_cast<int32_t>(choices.size()) - 1; }
};

}  // namespace sluice
