// Public request traces as sessions of one turn:
//   .jsonl  Mooncake (FAST'25 release): timestamp in ms, input_length, output_length, hash_ids of 512-token blocks;
//   equal
//           ids become equal tokens, so that prefixes are shared as they were
//   .csv    Azure LLM inference 2023: TIMESTAMP,ContextTokens,GeneratedTokens; nothing is known of the contents
#pragma once

#include "app/bench/workload.h"

namespace sluice {

struct TraceOptions {
  int32_t requests = 100;      // the first so many rows
  double scale = 1;            // of all lengths: a small machine replays a large one's trace in little
  int64_t context_length = 0;  // longer prompts are cut, so that their answers fit
  int32_t vocab_size = 0;
  uint64_t seed = 1;
};

// Errors name file, line, expected and found.
Result<std::vector<Session>> read_trace(const std::string& file, const TraceOptions& options);

}  // namespace sluice
