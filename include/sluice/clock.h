// Time is injected: policy code never asks the machine. SteadyClock for the product, ManualClock (in
// tests/support) for scenarios.
#pragma once

#include <chrono>

namespace sluice {

using Duration = std::chrono::nanoseconds;
// Monotonic; only differences mean something.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

constexpr TimePoint kNever = TimePoint::max();

class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
};

class SteadyClock final : public Clock {
 public:
  TimePoint now() const override { return std::chrono::steady_clock::now(); }
};

inline double seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace sluice
