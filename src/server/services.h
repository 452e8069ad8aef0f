// What a protocol's service needs of the rest of the process, wired up by the composition root. Owns nothing; all
// references outlive the server.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/clock.h"
#include "sluice/request.h"
#include "sluice/status.h"

#include "base/request_queue.h"
#include "chat/chat_format.h"
#include "server/frontend.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

// Figures of the loop for GetServer; those with "since the start" only grow.
struct LoopReport {
  int32_t running_sequences = 0;
  int32_t max_running_sequences = 0;
  int32_t cache_pages_total = 0;
  int32_t cache_pages_used = 0;    // by running sequences
  int32_t cache_pages_cached = 0;  // kept for later requests
  int64_t prompt_tokens = 0;       // since the start, as are the following
  int64_t cached_prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t preemptions = 0;
  double busy_seconds = 0;                                    // inside steps
  std::vector<std::pair<std::string, int64_t>> memory_bytes;  // the plan of memory: ("weights", bytes), ...
};

struct Services {
  Frontend& frontend;
  const RequestQueue& queue;
  const ModelInfo& model;
  std::string model_directory{};            // of the checkpoint
  const Tokenizer* tokenizer = nullptr;     // null: token ids only
  std::optional<ChatFormat> chat_format{};  // of the checkpoint
  Status chat_status{};                     // why there is no chat_format
  const Clock& clock;
  std::string version{};
  std::function<LoopReport()> report{};  // any thread; may be empty
};

}  // namespace sluice
