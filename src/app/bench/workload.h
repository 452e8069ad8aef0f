// What a load generator asks: sessions of one turn or more. A turn's prompt is all that was said in the session so far
// (answers included) and its own tokens behind it. Token ids are random and a pure function of the seed.
#pragma once

#include <string>
#include <vector>

#include "sluice/status.h"
#include "sluice/types.h"

#include "app/bench/distribution.h"

namespace sluice {

struct Turn {
  std::vector<TokenId> tokens;
  int32_t output_tokens = 0;
};

struct Session {
  double arrival = 0;  // seconds after the first one; of traces only
  std::vector<Turn> turns;

  int64_t num_tokens() const;  // prompts and answers of all turns: the context it needs
};

struct WorkloadOptions {
  int32_t requests = 100;  // turns, of all sessions together
  LengthDistribution prompt, output;
  int32_t prefixes = 4, prefix_tokens = 512;  // shared-prefix: how many, how long
  int32_t turns = 4;                          // chat: of a session
  int32_t vocab_size = 0;
  uint64_t seed = 1;
};

// mixed: nothing is shared. shared-prefix: each prompt begins with one of a few. chat: sessions of several turns.
// INVALID_ARGUMENT names the kinds.
Result<std::vector<Session>> make_workload(const std::string& kind, const WorkloadOptions& options);

}  // namespace sluice
