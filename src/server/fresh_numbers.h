// Random numbers for what clients leave out: request ids, seeds, and the time after which a refused one comes back.
// One per front door; any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <random>

#include "sluice/clock.h"

namespace sluice {

class FreshNumbers {
 public:
  FreshNumbers() {
    std::random_device device;
    state_ = (static_cast<uint64_t>(device()) << 32) | device();
  }

  // SplitMix64: a counter through a mixing function, so that threads share it with one atomic addition.
  uint64_t next() {
    uint64_t z = state_.fetch_add(0x9E3779B97F4A7C15ull, std::memory_order_relaxed);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  // 63 bits: the native protocol's seeds are signed.
  uint64_t next_seed() { return next() >> 1; }

  // Refused clients come back within [500, 1500) ms, spread evenly, so that they do not come back together. A second is
  // the order of a queue place's time: 1,024 places, each some seconds of work in a batch of hundreds.
  // A client whose own budget fills at a known time comes back behind that, spread over half a second.
  uint64_t next_retry_ms(Duration known = {}) {
    if (known == Duration{}) return 500 + next() % 1000;
    return static_cast<uint64_t>(std::chrono::ceil<std::chrono::milliseconds>(known).count()) + next() % 500;
  }

 private:
  std::atomic<uint64_t> state_;
};

}  // namespace sluice
