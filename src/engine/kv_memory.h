// The pages of the paged cache, as bytes. Owns the memory; knows neither who uses a page nor why (src/cache does).
// Executor's alone. Untouched pages cost no resident memory: the system maps them on first write.
#pragma once

#include "sluice/batch.h"
#include "sluice/kv_layout.h"
#include "sluice/plan.h"
#include "sluice/tensor.h"

namespace sluice {

class KvMemory {
 public:
  KvMemory(KvLayout layout, DType dtype, int32_t num_pages);

  void copy(const PageCopy& copy);
  void move(const PageMove& move);
  std::byte* page(PageId id);  // layout().bytes_per_page() bytes

  KvPages pages() { return {memory_.data(), layout_.bytes_per_page(), dtype_, &layout_}; }
  const KvLayout& layout() const { return layout_; }
  int32_t num_pages() const { return num_pages_; }

 private:
  const KvLayout layout_;
  const DType dtype_;
  const int32_t num_pages_;
  Buffer memory_;
};

}  // namespace sluice
