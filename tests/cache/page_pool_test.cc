#include "cache/page_pool.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(PagePool, LendsEveryPageOnce) {
  PagePool pool(3);
  EXPECT_EQ(pool.allocate(), PageId{0});
  EXPECT_EQ(pool.allocate(), PageId{1});
  EXPECT_EQ(pool.allocate(), PageId{2});
  EXPECT_EQ(pool.allocate(), kNoPage);
  EXPECT_EQ(pool.num_used(), 3);
  EXPECT_TRUE(pool.unuse(PageId{1}));
  EXPECT_EQ(pool.allocate(), PageId{1});
  pool.check_invariants();
}

TEST(PagePool, APageIsFreeWhenNobodyUsesOrKeepsIt) {
  PagePool pool(2);
  const PageId page = pool.allocate();
  pool.use(page);
  pool.keep(page);
  EXPECT_FALSE(pool.unuse(page));
  EXPECT_TRUE(pool.unuse(page));
  EXPECT_EQ(pool.num_cached(), 1);
  EXPECT_EQ(pool.num_free(), 1);
  pool.use(page);  // found again
  EXPECT_EQ(pool.num_cached(), 0);
  EXPECT_TRUE(pool.unuse(page));
  pool.unkeep(page);
  EXPECT_EQ(pool.num_free(), 2);
  pool.check_invariants();
}

TEST(PagePoolDeathTest, FreePagesCannotBeUsed) {
  PagePool pool(2);
  EXPECT_DEATH(pool.use(PageId{0}), "page 0 is free");
  EXPECT_DEATH(pool.unuse(PageId{0}), "page 0 is not used");
  EXPECT_DEATH(pool.unkeep(PageId{1}), "page 1 is not kept");
}

}  // namespace
}  // namespace sluice
