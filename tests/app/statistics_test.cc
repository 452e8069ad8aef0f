#include "app/bench/statistics.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(Statistics, PercentilesLieBetweenRanksAsNumpyPutsThem) {
  const std::vector<double> values = {40, 10, 30, 20};  // any order
  EXPECT_DOUBLE_EQ(percentile(values, 0), 10);
  EXPECT_DOUBLE_EQ(percentile(values, 50), 25);
  EXPECT_DOUBLE_EQ(percentile(values, 90), 37);  // rank 2.7
  EXPECT_DOUBLE_EQ(percentile(values, 100), 40);
  EXPECT_DOUBLE_EQ(percentile({7}, 99), 7);
}

TEST(Statistics, MedianAndMean) {
  EXPECT_DOUBLE_EQ(median({3, 1, 2}), 2);
  EXPECT_DOUBLE_EQ(median({4, 1, 2, 3}), 2.5);
  EXPECT_DOUBLE_EQ(mean({1, 2, 6}), 3);
}

TEST(StatisticsDeathTest, OfNothing) {
  EXPECT_DEATH(percentile({}, 50), "percentile 50 of nothing");
  EXPECT_DEATH(mean({}), "mean of nothing");
  EXPECT_DEATH(percentile({1}, 101), "percent=101");
}

}  // namespace
}  // namespace sluice
