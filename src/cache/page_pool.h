// Accounting of the device pages: which are free, which sequences use, which only the prefix tree keeps.
// Owns two counters per page and the free list; refuses to own contents, tokens or any order of eviction.
// Called by ActivationCache and PrefixTree; loop thread only.
//
//                    allocate()                   last unuse(), not kept
//      free  ------------------------>  used  ------------------------------>  free
//                                        | ^
//      last unuse(), kept by the tree    | |  use()
//                                        v |
//                                      cached  ---- unkeep() (eviction) ---->  free
#pragma once

#include <cstdint>
#include <vector>

#include "sluice/types.h"

namespace sluice {

class PagePool {
 public:
  explicit PagePool(int32_t num_pages);

  // A free page, used once. kNoPage when none is free.
  PageId allocate();
  // One more / one less sequence uses the page. unuse() returns true when that was the last one.
  void use(PageId page);
  bool unuse(PageId page);
  // One more / one less node of the prefix tree keeps the page.
  void keep(PageId page);
  void unkeep(PageId page);

  int32_t num_uses(PageId page) const { return counts_[index(page)].uses; }
  int32_t num_keeps(PageId page) const { return counts_[index(page)].keeps; }

  int32_t num_pages() const { return static_cast<int32_t>(counts_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_used() const { return num_used_; }
  // Kept by the tree alone: what eviction can give back.
  int32_t num_cached() const { return num_pages() - num_free() - num_used_; }

  // Aborts when counters and free list disagree. Linear in num_pages.
  void check_invariants() const;

 private:
  struct Counts {
    int32_t uses = 0;   // sequences
    int32_t keeps = 0;  // tree nodes
  };

  static size_t index(PageId page) { return static_cast<size_t>(value(page)); }
  void free_if_unreferenced(PageId page);

  std::vector<Counts> counts_;  // [num_pages]
  std::vector<PageId> free_;    // stack: the page freed last is the warmest
  int32_t num_used_ = 0;
};

}  // namespace sluice
