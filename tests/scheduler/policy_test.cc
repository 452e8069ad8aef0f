#include "scheduler/policy.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

constexpr Duration kAgeing = std::chrono::seconds(10);

TimePoint at(int64_t ms) { return TimePoint(std::chrono::milliseconds(ms)); }

TEST(Policy, EqualPrioritiesGoByArrival) { EXPECT_LT(order_key(0, at(1), kAgeing), order_key(0, at(2), kAgeing)); }

TEST(Policy, PriorityGoesFirstUntilTheOtherHasWaited) {
  EXPECT_LT(order_key(-1, at(9'999), kAgeing), order_key(0, at(0), kAgeing));
  EXPECT_GT(order_key(-1, at(10'001), kAgeing), order_key(0, at(0), kAgeing));
}

TEST(Policy, ExtremePrioritiesDoNotOverflow) {
  EXPECT_LT(order_key(INT32_MIN, at(0), kAgeing), order_key(0, at(0), kAgeing));
  EXPECT_GT(order_key(INT32_MAX, at(0), kAgeing), order_key(0, at(0), kAgeing));
}

TEST(Policy, PromptChunksEndAtPageBordersOrWithThePrompt) {
  EXPECT_EQ(chunk_end(TokenRole::kPrompt, 0, 100, 100), 100);
  EXPECT_EQ(chunk_end(TokenRole::kPrompt, 0, 100, 99), 64);
  EXPECT_EQ(chunk_end(TokenRole::kPrompt, 64, 1000, 200), 256);
  EXPECT_EQ(chunk_end(TokenRole::kPrompt, 64, 1000, 63), 64);
  EXPECT_EQ(chunk_end(TokenRole::kPrompt, 64, 65, 1), 65);
}

TEST(Policy, GeneratedChunksEndAnywhere) {
  EXPECT_EQ(chunk_end(TokenRole::kGenerated, 70, 1000, 63), 133);
  EXPECT_EQ(chunk_end(TokenRole::kGenerated, 70, 80, 63), 80);
}

}  // namespace
}  // namespace sluice
