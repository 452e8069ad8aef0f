// How many tokens a client may still use: a bucket that fills at so many tokens a minute and holds a minute's worth.
// Prompts are charged when they are admitted, answers token by token, so the bucket may go below zero (nobody knows
// before how long an answer gets); whoever finds it empty waits until it is not. Owns level and time of the last look;
// any thread.
#pragma once

#include <cstdint>
#include <mutex>

#include "sluice/clock.h"

namespace sluice {

class TokenBudget {
 public:
  // `clock` outlives the budget.
  explicit TokenBudget(const Clock& clock) : clock_(clock) {}

  // 0: no limit. Takes effect at once; the first limit begins with a full bucket, a later one keeps what is left, a
  // minute's worth at most.
  void set_per_minute(int64_t tokens);

  // Takes them, if the bucket is not empty; else how long until it is not, and nothing is taken. 0: taken.
  Duration admit(int64_t tokens);
  void charge(int64_t tokens);

 private:
  void refill();  // mutex_ is held

  const Clock& clock_;
  std::mutex mutex_;
  int64_t per_minute_ = 0;
  double level_ = 0;  // <= per_minute_
  TimePoint seen_{};
};

}  // namespace sluice
