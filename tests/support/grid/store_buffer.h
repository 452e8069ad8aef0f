// Weak memory order, as far as a fence is concerned: stores of a block to global memory that no other block sees yet.
//
//   a store                    waits here; the block itself sees it
//   another block runs next    what waits is taken out of memory, some of it lands first, at random
//   barrier                    what its threads have stored is settled: any of them may fence it (fences add up)
//   thread_fence of a thread   its own stores land, and the block's settled ones
//   the launch's end           all land; a block's own end shows others nothing
//
// Half of the blocks let nothing land before its time. Who records the stores is tests/support/weak_grid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace sluice::grid {

class StoreBuffer {
 public:
  // `thread` of the block is about to store there.
  void record(void* address, size_t bytes, int thread);
  void hide();
  void show();
  void fence(int thread);
  // Stores that overlap these bytes land: an atomic operation meets them.
  void land_at(const void* address, size_t bytes);
  void restart();

  template <typename Of>
  void settle(Of&& of) {  // of(thread)
    for (auto& [address, store] : stores_) store.settled = store.settled || of(store.thread);
  }

 private:
  static constexpr size_t kMaxBytes = 16;
  struct Store {
    size_t bytes;
    int thread;
    bool settled;
    unsigned char own[kMaxBytes];     // what the block sees
    unsigned char others[kMaxBytes];  // what the others see
  };

  std::map<uintptr_t, Store> stores_;  // do not overlap
  bool eager_ = false;
};

}  // namespace sluice::grid
