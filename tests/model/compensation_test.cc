// Error compensation: the factor is what it claims to be, and what it does to a product is worth its trouble.
#include "model/compensation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "sluice/quantize.h"

namespace sluice {
namespace {

constexpr int64_t kCols = 64, kSamples = 400;

// Inputs that go together: each a mixture of a few hidden causes, as activations are.
std::vector<float> correlated_inputs(uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  constexpr int64_t kCauses = 12;
  std::vector<float> mixture(kCauses * kCols), inputs(kSamples * kCols);
  for (float& value : mixture) value = normal(random);
  for (int64_t s = 0; s < kSamples; ++s) {
    for (int64_t c = 0; c < kCauses; ++c) {
      const float cause = normal(random);
      for (int64_t k = 0; k < kCols; ++k)
        inputs[static_cast<size_t>(s * kCols + k)] += cause * mixture[static_cast<size_t>(c * kCols + k)];
    }
    for (int64_t k = 0; k < kCols; ++k) inputs[static_cast<size_t>(s * kCols + k)] += 0.3f * normal(random);
  }
  return inputs;
}

std::vector<double> gram_of(const std::vector<float>& inputs) {
  std::vector<double> gram(kCols * kCols);
  for (int64_t s = 0; s < kSamples; ++s)
    for (int64_t i = 0; i < kCols; ++i)
      for (int64_t j = i; j < kCols; ++j)
        gram[static_cast<size_t>(i * kCols + j)] +=
            static_cast<double>(inputs[static_cast<size_t>(s * kCols + i)]) * inputs[static_cast<size_t>(s * kCols + j)];
  return gram;
}

TEST(Compensation, FactorSquaresToTheInverse) {
  const std::vector<double> gram = gram_of(correlated_inputs(1));
  const std::vector<float> factor = compensation_factor(gram, kCols);
  double mean = 0;
  for (int64_t i = 0; i < kCols; ++i) mean += gram[static_cast<size_t>(i * kCols + i)] / kCols;
  const auto damped = [&](int64_t i, int64_t j) {
    return gram[static_cast<size_t>(std::min(i, j) * kCols + std::max(i, j))] + (i == j ? 0.01 * mean : 0);
  };
  const auto u = [&](int64_t i, int64_t j) { return static_cast<double>(factor[static_cast<size_t>(i * kCols + j)]); };
  // (U^T U) G = 1, to what f32 keeps of U: the condition of G is about 1 / damping.
  for (int64_t i = 0; i < kCols; ++i) {
    for (int64_t j = 0; j < kCols; ++j) {
      double product = 0;
      for (int64_t k = 0; k < kCols; ++k) {
        double inverse = 0;
        for (int64_t m = 0; m <= std::min(i, k); ++m) inverse += u(m, i) * u(m, k);
        product += inverse * damped(k, j);
      }
      EXPECT_NEAR(product, i == j ? 1 : 0, 1e-4) << i << ", " << j;
      if (j < i) {
        EXPECT_EQ(u(i, j), 0) << i << ", " << j;
      }
    }
  }
  EXPECT_TRUE(compensation_factor(std::vector<double>(kCols * kCols), kCols).empty());
}

TEST(Compensation, MakesProductsBetterWithEveryFormat) {
  const std::vector<float> inputs = correlated_inputs(2);
  const std::vector<float> factor = compensation_factor(gram_of(inputs), kCols);
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 0.02f);
  for (const WeightFormat format : {WeightFormat::kInt4G32, WeightFormat::kInt4G64, WeightFormat::kInt4G32Z}) {
    double plain = 0, compensated = 0;
    const int32_t group = group_size(format, kCols);
    for (int row = 0; row < 50; ++row) {
      std::vector<float> weights(kCols);
      for (float& weight : weights) weight = normal(random);
      std::vector<int8_t> codes(kCols);
      std::vector<GroupGrid> grids(static_cast<size_t>(kCols / group));
      const auto output_error = [&] {
        double sum = 0;
        for (int64_t s = 0; s < kSamples; ++s) {
          double error = 0;
          for (int64_t k = 0; k < kCols; ++k) {
            const GroupGrid& grid = grids[static_cast<size_t>(k / group)];
            const auto at = static_cast<size_t>(k);
            error += (weights[at] - grid.scale * static_cast<float>(codes[at] - grid.zero)) *
                     static_cast<double>(inputs[static_cast<size_t>(s * kCols + k)]);
          }
          sum += error * error;
        }
        return sum;
      };
      for (int64_t k = 0; k < kCols; k += group)
        grids[static_cast<size_t>(k / group)] = quantize_group(format, weights.data() + k, group, codes.data() + k);
      plain += output_error();
      std::vector<float> destroyed = weights;
      quantize_row_compensated(format, destroyed.data(), kCols, factor.data(), codes.data(), grids.data());
      compensated += output_error();
      for (int8_t code : codes) ASSERT_TRUE(code >= -8 && code <= 7);
    }
    std::printf("%s: squared error of products %.3f of that of rounding\n", name(format), compensated / plain);
    EXPECT_LT(compensated, 0.5 * plain) << name(format);
  }
}

}  // namespace
}  // namespace sluice
