#include "scheduler/policy.h"

#include <algorithm>

#include "sluice/kv_layout.h"

namespace sluice {

int64_t order_key(int32_t priority, TimePoint arrival, Duration ageing) {
  // 10,000 levels of 10 s are 10^14 ns: far from overflow, and more than any client needs.
  constexpr int32_t kMaxPriority = 10'000;
  return arrival.time_since_epoch().count() + std::clamp(priority, -kMaxPriority, kMaxPriority) * ageing.count();
}

int32_t chunk_end(TokenRole role, int32_t begin, int32_t role_end, int32_t budget) {
  if (role_end - begin <= budget) return role_end;
  if (role == TokenRole::kGenerated) return begin + budget;
  return std::max(begin, (begin + budget) / kPageTokens * kPageTokens);
}

Sequence* choose_victim(std::span<Sequence* const> running, const Sequence& oldest) {
  for (size_t i = running.size(); i-- > 0;)
    if (running[i] != &oldest && running[i]->phase == SequencePhase::kRunning) return running[i];
  return nullptr;
}

}  // namespace sluice
