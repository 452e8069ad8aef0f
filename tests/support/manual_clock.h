// A clock that stands still until a test moves it.
#pragma once

#include "sluice/clock.h"

namespace sluice {

class ManualClock final : public Clock {
 public:
  TimePoint now() const override { return now_; }
  void advance(Duration duration) { now_ += duration; }
  void set(TimePoint now) { now_ = now; }

 private:
  // Not zero: a zero arrival means "not said".
  TimePoint now_{std::chrono::hours(1)};
};

}  // namespace sluice
