#include "server/token_budget.h"

#include <algorithm>
#include <chrono>

namespace sluice {

void TokenBudget::set_per_minute(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  refill();
  level_ = per_minute_ == 0 ? static_cast<double>(tokens) : std::min(level_, static_cast<double>(tokens));
  per_minute_ = tokens;
}

Duration TokenBudget::admit(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  if (per_minute_ == 0) return {};
  refill();
  if (level_ < 1) {
    const double wait = (1 - level_) * 60 / static_cast<double>(per_minute_);
    return std::max(Duration{1}, std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait)));
  }
  level_ -= static_cast<double>(tokens);
  return {};
}

void TokenBudget::charge(int64_t tokens) {
  const std::lock_guard lock(mutex_);
  if (per_minute_ > 0) level_ -= static_cast<double>(tokens);
}

void TokenBudget::refill() {
  const TimePoint now = clock_.now();
  const double more = seconds(now - seen_) / 60 * static_cast<double>(per_minute_);
  seen_ = now;
  level_ = std::min(level_ + more, static_cast<double>(per_minute_));
}

}  // namespace sluice
