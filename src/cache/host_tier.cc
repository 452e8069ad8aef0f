#include "cache/host_tier.h"

#include "sluice/check.h"

namespace sluice {

HostTier::HostTier(int32_t num_slots, int64_t slot_bytes) : num_slots_(num_slots), slot_bytes_(slot_bytes) {
  SLUICE_CHECK(num_slots >= 0 && (num_slots == 0 || slot_bytes > 0), "{} slots of {} bytes", num_slots, slot_bytes);
  if (num_slots == 0) return;
  arena_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(num_slots * slot_bytes));
  for (int32_t slot = num_slots - 1; slot >= 0; --slot) free_.push_back(slot);
}

int32_t HostTier::allocate() {
  if (free_.empty()) return -1;
  const int32_t slot = free_.back();
  free_.pop_back();
  return slot;
}

void HostTier::free(int32_t slot) {
  SLUICE_CHECK(slot >= 0 && slot < num_slots_ && num_free() < num_slots_, "slot {}", slot);
  free_.push_back(slot);
}

}  // namespace sluice
