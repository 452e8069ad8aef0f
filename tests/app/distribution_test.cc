#include "app/bench/distribution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace sluice {
namespace {

std::vector<int32_t> draws(const std::string& text, int count = 20'000) {
  const LengthDistribution lengths = LengthDistribution::parse(text).value();
  std::mt19937_64 random(7);
  std::vector<int32_t> values;
  for (int i = 0; i < count; ++i) values.push_back(lengths.draw(random));
  std::ranges::sort(values);
  return values;
}

TEST(LengthDistribution, AFixedLengthIsThatLength) {
  const auto values = draws("64", 100);
  EXPECT_EQ(values.front(), 64);
  EXPECT_EQ(values.back(), 64);
}

TEST(LengthDistribution, UniformReachesBothEnds) {
  const auto values = draws("uniform:3:9");
  EXPECT_EQ(values.front(), 3);
  EXPECT_EQ(values.back(), 9);
  EXPECT_EQ(values[values.size() / 2], 6);
}

TEST(LengthDistribution, LognormalHasItsMedianAndIsClipped) {
  const auto values = draws("lognormal:32:1:8:256");
  EXPECT_EQ(values.front(), 8);
  EXPECT_EQ(values.back(), 256);
  // The median of 20,000 draws of sigma 1 scatters by 1.25 / sqrt(20,000) = 0.9 % of it.
  EXPECT_NEAR(values[values.size() / 2], 32, 2);
  // Below 8 = median e^-1.386: 8.3 % of a normal, all of them clipped to 8.
  const auto clipped = std::ranges::upper_bound(values, 8) - values.begin();
  EXPECT_NEAR(static_cast<double>(clipped) / 20'000, 0.083 + 0.007, 0.01);  // and what rounds to 8
}

TEST(LengthDistribution, RefusesWhatIsNone) {
  for (const char* text : {"", "x", "0", "-3", "uniform:5", "uniform:9:3", "lognormal:32:1:8", "normal:1:2", "64x",
                           "uniform:0:4", "lognormal:32:nan:8:256"}) {
    const auto result = LengthDistribution::parse(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.status().to_string(),
              fmt::format("INVALID_ARGUMENT: length: expected N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA:LOW:HIGH "
                          "with 1 <= LOW <= HIGH, found '{}'",
                          text));
  }
}

TEST(ZipfDistribution, SharesFallAsOneOverRank) {
  ZipfDistribution zipf(4, 1);
  std::mt19937_64 random(3);
  std::vector<int> counts(4);
  const int total = 100'000;
  for (int i = 0; i < total; ++i) ++counts[static_cast<size_t>(zipf.draw(random))];
  const double harmonic = 1 + 1.0 / 2 + 1.0 / 3 + 1.0 / 4;
  for (size_t i = 0; i < 4; ++i)  // a standard deviation of a share is at most 0.5 / sqrt(100,000) = 0.0016
    EXPECT_NEAR(static_cast<double>(counts[i]) / total, 1.0 / static_cast<double>(i + 1) / harmonic, 0.008);
}

TEST(ArrivalGaps, HaveTheRateAndTheBurstiness) {
  for (const double burstiness : {0.25, 1.0, 4.0}) {
    ArrivalGaps gaps(5, burstiness);
    std::mt19937_64 random(3);
    double sum = 0, squares = 0;
    const int count = 100'000;
    for (int i = 0; i < count; ++i) {
      const double gap = gaps.draw(random);
      sum += gap;
      squares += gap * gap;
    }
    const double mean = sum / count, variance = squares / count - mean * mean;
    EXPECT_NEAR(mean, 0.2, 0.2 * 0.02);
    EXPECT_NEAR(variance / (mean * mean), 1 / burstiness, 0.1 / burstiness);  // of a gamma: 1 / shape
  }
}

}  // namespace
}  // namespace sluice
