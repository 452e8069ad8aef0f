// One cell of `bench engine`: a batch of sequences at a depth, prefilled or decoded through the executor as a server's
// steps would, without scheduler and cache. Depth is not prefilled: pages hold seeded random latents, which costs the
// engine the same. Tokens are random, too, so that routing spreads as over a text. Owns an executor; the model is lent.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "app/loaded_model.h"
#include "engine/executor.h"
#include "parallel/timed_communicator.h"

namespace sluice {

enum class CellKind { kPrefill, kDecode };

struct Cell {
  CellKind kind = CellKind::kPrefill;
  int32_t tokens = 0;  // of each sequence, computed in the cell
  int32_t depth = 0;   // positions before them
  int32_t batch = 1;   // sequences

  std::string name() const;  // "pp512", "tg128", as llama-bench calls them
};

// What one run of a cell took and touched.
struct CellRun {
  double seconds = 0;
  int64_t steps = 0;
  int64_t experts = 0;                             // distinct routed experts, summed over layers and steps
  int64_t cached_positions = 0;  // read by a decode step from the cache, summed over steps and sequences
  size_t first_operation = 0, last_operation = 0;  // between ranks: [first, last) of those that were noted
};

class CellRunner {
 public:
  // `timed`: what the model's ranks meet by, if they are measured.
  CellRunner(LoadedModel& loaded, uint64_t seed, const TimedCommunicator* timed = nullptr);

  // Why the cell cannot run on this machine with these options; empty if it can.
  std::string misfit(const Cell& cell) const;
  CellRun run(const Cell& cell);

 private:
  void fill_pages(int32_t num_pages);
  SequenceWork work_of(size_t sequence, int32_t begin, int32_t end, TokenRole role);
  void run_step(StepPlan& plan, CellRun& run);
  int64_t positions_read(int64_t position) const;
  void prefill(const Cell& cell, CellRun& run);
  void decode(const Cell& cell, CellRun& run);

  struct BenchSequence {
    std::vector<TokenId> tokens;  // [depth + tokens]
    std::vector<PageId> pages;
  };

  LoadedModel& loaded_;
  const TimedCommunicator* timed_;
  std::mt19937_64 random_;
  Executor executor_;
  ForwardObserver observer_;
  std::vector<uint8_t> expert_seen_;  // [num_experts] of the layer that is being observed
  int64_t num_experts_seen_ = 0;
  int32_t num_filled_ = 0;  // pages [0, num_filled_) hold latents
  SamplingParams greedy_;
  std::vector<BenchSequence> sequences_;
};

}  // namespace sluice
