#include "tests/support/grid/store_buffer.h"

#include <algorithm>
#include <cstring>

#include "tests/support/grid/grid.h"

namespace sluice::grid {

void StoreBuffer::restart() {
  stores_.clear();
  eager_ = random_below(2) == 0;
}

void StoreBuffer::record(void* address, size_t bytes, int thread) {
  while (bytes > 0) {
    const size_t part = std::min(bytes, kMaxBytes);
    const auto at = reinterpret_cast<uintptr_t>(address);
    const auto found = stores_.find(at);
    if (found != stores_.end() && found->second.bytes == part) {
      found->second.thread = thread;
      found->second.settled = false;
    } else {
      land_at(address, part);
      Store& store = stores_[at];
      store = {part, thread, false, {}, {}};
      std::memcpy(store.others, address, part);
    }
    address = static_cast<unsigned char*>(address) + part;
    bytes -= part;
  }
}

void StoreBuffer::hide() {
  for (auto it = stores_.begin(); it != stores_.end();) {
    if (eager_ && random_below(16) == 0) {
      it = stores_.erase(it);
      continue;
    }
    auto* memory = reinterpret_cast<unsigned char*>(it->first);
    std::memcpy(it->second.own, memory, it->second.bytes);
    std::memcpy(memory, it->second.others, it->second.bytes);
    ++it;
  }
}

void StoreBuffer::show() {
  for (auto& [address, store] : stores_) {
    auto* memory = reinterpret_cast<unsigned char*>(address);
    std::memcpy(store.others, memory, store.bytes);
    std::memcpy(memory, store.own, store.bytes);
  }
}

void StoreBuffer::fence(int thread) {
  std::erase_if(stores_, [&](const auto& entry) { return entry.second.settled || entry.second.thread == thread; });
}

void StoreBuffer::land_at(const void* address, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(address), end = begin + bytes;
  auto it = stores_.upper_bound(begin);
  if (it != stores_.begin() && std::prev(it)->first + std::prev(it)->second.bytes > begin) --it;
  while (it != stores_.end() && it->first < end) it = stores_.erase(it);
}

}  // namespace sluice::grid
