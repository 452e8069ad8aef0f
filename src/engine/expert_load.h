// How many rows each expert of each layer has computed since the start: shows whether the router uses all of its
// experts. Owns the counters. The loop thread counts (through the executor's ForwardObserver); any thread reads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "sluice/batch.h"

namespace sluice {

class ExpertLoad {
 public:
  // `layers`: those with a router, ascending.
  ExpertLoad(std::vector<int32_t> layers, int32_t num_experts);

  // For Executor::set_observer(); lives as long as this.
  const ForwardObserver* observer() const { return &observer_; }

  const std::vector<int32_t>& layers() const { return layers_; }
  int32_t num_experts() const { return num_experts_; }
  std::vector<int64_t> rows() const;  // [layers, num_experts]

 private:
  void count(int32_t layer, int64_t num_chosen, const int32_t* experts);

  const std::vector<int32_t> layers_;
  const int32_t num_experts_;
  // One writer: a relaxed load and store, no locked instruction. A reader may see a step half counted.
  std::unique_ptr<std::atomic<int64_t>[]> rows_;
  ForwardObserver observer_;
};

}  // namespace sluice
