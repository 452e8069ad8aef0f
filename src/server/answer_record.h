// What is known of an answer when it has ended, for logs and traces: values, and never a word of prompt or answer.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "server/generation.h"
#include "server/trace_parent.h"

namespace sluice {

struct AnswerRecord {
  std::string request_id;  // as the client knows it
  std::string client;      // whose token it was; empty: nobody was asked
  std::optional<TraceParent> trace;
  GenerationEnd end;
  FinishReason finish = FinishReason::kNone;  // of the choice that ended last; kNone: it was cut off
  std::chrono::system_clock::time_point ended_at;
};

// Called once per answer, by the thread that ends it, mostly the detokeniser's: must neither block nor call back.
using AnswerObserver = std::function<void(const AnswerRecord&)>;

}  // namespace sluice
