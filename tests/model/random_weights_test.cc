#include "model/random_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sluice {
namespace {

using testing::ElementsAre;

std::vector<float> values(uint64_t seed, const std::string& tensor, int64_t begin, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  random_values(seed, tensor, begin, count, out.data());
  return out;
}

struct Moments {
  double mean, deviation, skew, kurtosis;
};

Moments moments(const std::vector<float>& sample) {
  const double n = static_cast<double>(sample.size());
  double mean = 0, second = 0, third = 0, fourth = 0;
  for (float x : sample) mean += x / n;
  for (float x : sample) {
    const double d = x - mean;
    second += d * d / n;
    third += d * d * d / n;
    fourth += d * d * d * d / n;
  }
  return {mean, std::sqrt(second), third / std::pow(second, 1.5), fourth / (second * second)};
}

double correlation(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum / static_cast<double>(a.size()) / (kRandomWeightSigma * kRandomWeightSigma);
}

constexpr int64_t kMany = 1 << 20;
// Five standard errors of a mean of kMany values in units of sigma, 5 / sqrt(2^20).
constexpr double kFiveErrors = 0.0049;

// If these change, every figure and golden made with random weights changes too. Parent: random_values.py.
TEST(RandomWeights, KnownValues) {
  const auto multiples = [](uint64_t seed, const std::string& tensor, int64_t begin) {
    std::vector<int> sums;  // in units of the smallest step
    for (float x : values(seed, tensor, begin, 6))
      sums.push_back(static_cast<int>(std::lround(x * (147.80054 / 0.02))));
    return sums;
  };
  EXPECT_THAT(multiples(0, "a", 0), ElementsAre(9, -68, 0, 33, 0, -7));
  EXPECT_THAT(multiples(1, "model.layers.3.mlp.experts.17.gate_proj.weight", 253),
              ElementsAre(-235, -72, 193, -232, 107, -43));
  EXPECT_THAT(multiples(~uint64_t{0}, "lm_head.weight", int64_t{1} << 40), ElementsAre(218, -247, -198, -93, 208, 3));
  EXPECT_EQ(std::bit_cast<uint32_t>(values(0, "a", 0, 1)[0]), 983539844u);
}

TEST(RandomWeights, AnySplitGivesTheSameBits) {
  const std::string tensor = "model.layers.0.self_attn.o_proj.weight";
  const std::vector<float> whole = values(7, tensor, 0, 3000);
  for (int64_t step : {1, 7, 255, 256, 257, 1000}) {
    for (int64_t begin = 0; begin < 3000; begin += step) {
      const int64_t count = std::min<int64_t>(step, 3000 - begin);
      const std::vector<float> part = values(7, tensor, begin, count);
      ASSERT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + begin)) << "step " << step << " at " << begin;
    }
  }
  EXPECT_TRUE(values(7, tensor, 5, 0).empty());
}

TEST(RandomWeights, AreAboutNormal) {
  const std::vector<float> sample = values(1, "model.embed_tokens.weight", 12345, kMany);
  const Moments m = moments(sample);
  EXPECT_NEAR(m.mean / kRandomWeightSigma, 0, kFiveErrors);
  EXPECT_NEAR(m.deviation / kRandomWeightSigma, 1, kFiveErrors);
  EXPECT_NEAR(m.skew, 0, 0.012);  // standard error sqrt(6 / 2^20)
  // Four bytes: excess -1.2 / 4, against 0 of a normal distribution; standard error sqrt(24 / 2^20).
  EXPECT_NEAR(m.kurtosis, 2.7, 0.025);
  const auto [least, most] = std::minmax_element(sample.begin(), sample.end());
  EXPECT_GT(*most, 3.0f * kRandomWeightSigma);
  EXPECT_LT(*most, 3.46f * kRandomWeightSigma);
  EXPECT_LT(*least, -3.0f * kRandomWeightSigma);
  EXPECT_GT(*least, -3.46f * kRandomWeightSigma);
}

TEST(RandomWeights, NormWeightsLieAroundOne) {
  for (const char* tensor : {"model.norm.weight", "model.layers.1.input_layernorm.weight",
                             "model.layers.1.self_attn.kv_a_layernorm.weight"}) {
    const Moments m = moments(values(1, tensor, 0, kMany));
    EXPECT_NEAR(m.mean, 1, kFiveErrors * kRandomWeightSigma);
    EXPECT_NEAR(m.deviation / kRandomWeightSigma, 1, kFiveErrors);
  }
  EXPECT_NEAR(moments(values(1, "model.layers.3.mlp.gate.e_score_correction_bias", 0, kMany)).mean, 0,
              kFiveErrors * kRandomWeightSigma);
}

// Streams that differ in one small thing have nothing in common.
TEST(RandomWeights, NamesSeedsAndNeighboursAreIndependent) {
  const std::vector<float> base = values(1, "model.layers.1.mlp.experts.1.up_proj.weight", 0, kMany);
  const std::vector<std::pair<const char*, std::vector<float>>> others = {
      {"other seed", values(2, "model.layers.1.mlp.experts.1.up_proj.weight", 0, kMany)},
      {"other layer", values(1, "model.layers.2.mlp.experts.1.up_proj.weight", 0, kMany)},
      {"other expert", values(1, "model.layers.1.mlp.experts.2.up_proj.weight", 0, kMany)},
      {"other matrix", values(1, "model.layers.1.mlp.experts.1.gate_proj.weight", 0, kMany)},
      {"next element", values(1, "model.layers.1.mlp.experts.1.up_proj.weight", 1, kMany)},
      {"next block", values(1, "model.layers.1.mlp.experts.1.up_proj.weight", 256, kMany)},
      {"64 rows on", values(1, "model.layers.1.mlp.experts.1.up_proj.weight", 64 * 2048, kMany)},
  };
  for (const auto& [what, other] : others) EXPECT_NEAR(correlation(base, other), 0, kFiveErrors) << what;
}

}  // namespace
}  // namespace sluice
