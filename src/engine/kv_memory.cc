#include "engine/kv_memory.h"

#include <cstring>

#include "sluice/check.h"

namespace sluice {

KvMemory::KvMemory(KvLayout layout, DType dtype, int32_t num_pages)
    : layout_(std::move(layout)),
      dtype_(dtype),
      num_pages_(num_pages),
      memory_(static_cast<size_t>(layout_.bytes_per_page()) * static_cast<size_t>(num_pages)) {}

std::byte* KvMemory::page(PageId id) {
  SLUICE_CHECK(value(id) >= 0 && value(id) < num_pages_, "page={} of {}", value(id), num_pages_);
  return memory_.data() + value(id) * layout_.bytes_per_page();
}

void KvMemory::copy(const PageCopy& copy) {
  // The whole page, one memcpy: the positions beyond num_positions are written before they are read.
  std::memcpy(page(copy.to), page(copy.from), static_cast<size_t>(layout_.bytes_per_page()));
}

void KvMemory::move(const PageMove& move) {
  const auto bytes = static_cast<size_t>(layout_.bytes_per_page());
  if (move.to_host) {
    std::memcpy(move.host, page(move.page), bytes);
  } else {
    std::memcpy(page(move.page), move.host, bytes);
  }
}

}  // namespace sluice
