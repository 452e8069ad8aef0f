#include "cache/page_pool.h"

#include "sluice/check.h"

namespace sluice {

PagePool::PagePool(int32_t num_pages) : counts_(static_cast<size_t>(num_pages)) {
  SLUICE_CHECK(num_pages > 0, "num_pages={}", num_pages);
  free_.reserve(counts_.size());
  for (int32_t page = num_pages - 1; page >= 0; --page) free_.push_back(PageId{page});  // page 0 goes out first
}

PageId PagePool::allocate() {
  if (free_.empty()) return kNoPage;
  const PageId page = free_.back();
  free_.pop_back();
  counts_[index(page)].uses = 1;
  ++num_used_;
  return page;
}

void PagePool::use(PageId page) {
  Counts& counts = counts_[index(page)];
  SLUICE_CHECK(counts.uses > 0 || counts.keeps > 0, "page {} is free", value(page));
  if (counts.uses++ == 0) ++num_used_;
}

bool PagePool::unuse(PageId page) {
  Counts& counts = counts_[index(page)];
  SLUICE_CHECK(counts.uses > 0, "page {} is not used", value(page));
  if (--counts.uses > 0) return false;
  --num_used_;
  free_if_unreferenced(page);
  return true;
}

void PagePool::keep(PageId page) {
  Counts& counts = counts_[index(page)];
  SLUICE_CHECK(counts.uses > 0 || counts.keeps > 0, "page {} is free", value(page));
  ++counts.keeps;
}

void PagePool::unkeep(PageId page) {
  Counts& counts = counts_[index(page)];
  SLUICE_CHECK(counts.keeps > 0, "page {} is not kept", value(page));
  --counts.keeps;
  free_if_unreferenced(page);
}

void PagePool::free_if_unreferenced(PageId page) {
  const Counts& counts = counts_[index(page)];
  if (counts.uses == 0 && counts.keeps == 0) free_.push_back(page);
}

void PagePool::check_invariants() const {
  std::vector<bool> is_free(counts_.size(), false);
  for (const PageId page : free_) {
    SLUICE_CHECK(!is_free[index(page)], "page {} is in the free list twice", value(page));
    is_free[index(page)] = true;
  }
  int32_t num_used = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    const Counts& counts = counts_[i];
    SLUICE_CHECK(counts.uses >= 0 && counts.keeps >= 0, "page {}: uses={} keeps={}", i, counts.uses, counts.keeps);
    const bool unreferenced = counts.uses == 0 && counts.keeps == 0;
    SLUICE_CHECK(unreferenced == is_free[i], "page {}: uses={} keeps={} free={}", i, counts.uses, counts.keeps,
                 static_cast<bool>(is_free[i]));
    if (counts.uses > 0) ++num_used;
  }
  SLUICE_CHECK(num_used == num_used_, "used: counted {}, kept {}", num_used, num_used_);
}

}  // namespace sluice
