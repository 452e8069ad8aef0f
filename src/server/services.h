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

// Expert choices since the start, by layer and expert.
struct ExpertReport {
  std::vector<int32_t> layers;  // those with a router
  int32_t num_experts = 0;
  std::vector<int64_t> rows;  // [layers, num_experts]
};

// One tier of the activation cache.
struct TierReport {
  const char* name = "";      // "device", "host"
  int32_t pages_total = 0;    // 0: there is no such tier
  int32_t pages_cached = 0;   // kept for later requests
  int64_t hit_tokens = 0;     // prompt tokens found there, since the start
  int64_t evicted_pages = 0;  // that left it, since the start
};

// Figures of the loop for GetServer and metrics; those with "since the start" only grow.
struct LoopReport {
  int32_t running_sequences = 0;
  int32_t cache_pages_total = 0;
  int32_t cache_pages_used = 0;    // by running sequences
  int32_t cache_pages_cached = 0;  // kept for later requests
  int64_t prompt_tokens = 0;       // since the start, as are the following
  int64_t cached_prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t preemptions = 0;
  double busy_seconds = 0;  // inside steps
  int64_t steps = 0;
  int64_t computed_tokens = 0;                               // rows of all steps
  int64_t recomputed_tokens = 0;                             // of these, computed before and lost in a preemption
  std::vector<std::pair<const char*, double>> step_seconds;  // ("forward", s), ...: parts of busy_seconds
  std::vector<std::pair<const char*, int64_t>> finished;     // choices by reason: ("stop", n), ...
  int64_t cache_queries = 0;                                 // prompts looked up in the cache
  int64_t cache_exact_hits = 0;                              // of these, known whole
  int64_t cache_query_tokens = 0;                            // prompt tokens of these queries
  int64_t cache_hit_tokens_generated = 0;                    // found tokens on pages with generated rows
  std::vector<TierReport> tiers;
  int64_t disk_saved_pages = 0, disk_loaded_pages = 0;
  // Of the last step, and how much a step may hold.
  int32_t batch_tokens = 0, batch_tokens_limit = 0;
  int32_t batch_sequences = 0, batch_sequences_limit = 0;
  int32_t page_tokens = 0;                                    // of a cache page
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
  bool has_grammars = false;                    // the Frontend has a GrammarCompiler
  std::function<LoopReport()> report{};         // any thread; may be empty
  std::function<ExpertReport()> expert_load{};  // the same
};

}  // namespace sluice
