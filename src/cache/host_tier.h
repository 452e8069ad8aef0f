// Host memory for pages that had to leave the device: slots of one arena. Owns the bytes and which slots are free;
// refuses to know what a slot holds (the prefix tree does) and to copy anything (the engine does, StepPlan.moves).
// Called by ActivationCache; loop thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice {

class HostTier {
 public:
  // num_slots may be 0: no such tier.
  HostTier(int32_t num_slots, int64_t slot_bytes);

  // A free slot, or -1.
  int32_t allocate();
  void free(int32_t slot);
  std::byte* bytes(int32_t slot) { return arena_.get() + int64_t{slot} * slot_bytes_; }

  int32_t num_slots() const { return num_slots_; }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int64_t slot_bytes() const { return slot_bytes_; }

 private:
  const int32_t num_slots_;
  const int64_t slot_bytes_;
  std::unique_ptr<std::byte[]> arena_;  // [num_slots, slot_bytes], not touched before a page comes
  std::vector<int32_t> free_;
};

}  // namespace sluice
