// What a protocol hands to the Frontend, and what it gets back: plain values that know no wire format. Every service
// (native gRPC today; others later) validates its own request into a GenerationTask and renders GenerationDeltas.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sluice/grammar.h"
#include "sluice/request.h"
#include "sluice/status.h"

#include "server/token_budget.h"
#include "server/trace_parent.h"

namespace sluice {

enum class Delivery : uint8_t {
  kStream,  // whatever is new, as soon as the reader is free; a reader that falls far behind is dropped
  kWhole,   // everything at once, at the end
};

struct GenerationTask {
  Request request;                        // validated; `id` and `arrival` are the Frontend's to fill
  std::vector<std::string> stop_strings;  // none empty, valid UTF-8
  std::optional<OutputForm> form;         // that each answer must have; the Frontend has it compiled
  std::string client_id;                  // the client's name for it, for abort(); need not be unique
  bool strip_leading_space = false;       // the first space belongs to the prompt's layout, not to the answer
  Delivery delivery = Delivery::kStream;
  std::shared_ptr<void> lease;  // let go when the answer has ended: what counts the client's open answers; may be empty
  std::shared_ptr<TokenBudget> budget;  // charged with each generated token; may be empty
  std::string client;           // whose token it is; empty: nobody was asked
  std::shared_ptr<const std::atomic<bool>> revoked;  // becomes true when that token is taken back; may be empty
  std::optional<TraceParent> trace;                  // that the request belongs to
};

struct PositionLogprobs {
  std::optional<TokenLogprob> chosen;  // absent for the prompt's first token
  std::vector<TokenLogprob> top;       // most likely first
};

// What is new of one choice since the delta before.
struct GenerationDelta {
  int32_t choice = 0;
  std::string text;                               // whole characters; lags behind the ids where a stop string may begin
  std::vector<TokenId> token_ids;                 // the one that ended it included, overshoot never
  std::vector<PositionLogprobs> logprobs;         // one per token id, if asked for
  std::vector<PositionLogprobs> prompt_logprobs;  // one per prompt token, once per request, if asked for
  FinishReason finish = FinishReason::kNone;
  std::optional<std::string> matched_stop;  // with kStop: the stop string,
  std::optional<TokenId> matched_token;     //             or the token
};

// After the last delta of the last choice.
struct GenerationEnd {
  Status status;              // not ok: cancelled, deadline, failed; the deltas before are still true
  Usage usage;                // tokens of all choices; times of the choice that began first
  Duration total_time{};      // arrival -> here
  Duration time_per_token{};  // mean gap between tokens after the first, over all choices; 0 without a second token
};

}  // namespace sluice
