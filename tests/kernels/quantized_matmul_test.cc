// INT4 and INT8 products: every backend and every path gives the oracle's bits, and the quantisation itself is as good
// as its definition allows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "sluice/quantize.h"

#include "kernels/registry.h"

namespace sluice {
namespace {

// A backend that does not support a format yet is left out.
constexpr WeightFormat kFormats[] = {WeightFormat::kInt8,     WeightFormat::kInt4G32,  WeightFormat::kInt4G64,
                                     WeightFormat::kInt4G128, WeightFormat::kInt4G32Z, WeightFormat::kInt4G64Z,
                                     WeightFormat::kInt4G128Z};

std::vector<float> normal(size_t count, float sigma, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> distribution(0, sigma);
  std::vector<float> values(count);
  for (float& value : values) value = distribution(random);
  return values;
}

struct Packed {
  Buffer buffer;
  Weight weight;
};

Packed pack(const Backend& backend, WeightFormat format, int64_t rows, int64_t cols, const std::vector<float>& values) {
  Packed packed{Buffer(static_cast<size_t>(backend.packed_bytes(format, rows, cols))), {format, rows, cols, nullptr}};
  std::memset(packed.buffer.data(), 0xee, packed.buffer.size());
  packed.weight.data = packed.buffer.data();
  // In two parts, as the loader's tiles come.
  const int64_t first = std::min<int64_t>(rows, kPackRows);
  backend.pack(packed.weight, 0, first, values.data(), packed.buffer.data());
  if (first < rows)
    backend.pack(packed.weight, first, rows - first, values.data() + first * cols, packed.buffer.data());
  return packed;
}

class Quantized : public testing::Test {
 protected:
  std::vector<float> multiply(const Backend& backend, const Weight& weight, const std::vector<float>& x, int64_t rows,
                              bool add) {
    std::vector<float> y(static_cast<size_t>(rows * weight.rows) + 1, add ? 0.25f : NAN);
    y.back() = 12345;
    backend.matmul({.x = x.data(),
                    .rows = rows,
                    .x_stride = weight.cols,
                    .weight = weight,
                    .y = y.data(),
                    .y_stride = weight.rows,
                    .add = add},
                   context_);
    EXPECT_EQ(y.back(), 12345) << "written beyond the end";
    y.pop_back();
    return y;
  }

  ThreadTeam team_{2};
  Scratch scratch_;
  OpContext context_{team_, scratch_};
};

TEST_F(Quantized, MatmulHasTheOraclesBitsOnEveryBackendAndRowCount) {
  // Beyond 16 rows another register tile takes over; 23 rows end with a partial one. Tiles of AMX end with 4, 8, 12 or
  // 16 rows, and 16 of them are one pass.
  constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 13, 16, 17, 23, 25, 32, 47, 259}, kMostRows = 259;
  const Backend& ref = *runnable_backends()[0];
  uint32_t seed = 1;
  for (WeightFormat format : kFormats) {
    for (const auto& [outputs, cols] :
         {std::pair<int64_t, int64_t>{1, 128}, {16, 128}, {70, 256}, {130, 384}, {33, 704}}) {
      const std::vector<float> values = normal(static_cast<size_t>(outputs * cols), 0.02f, ++seed);
      const std::vector<float> x = normal(static_cast<size_t>(kMostRows * cols), 1.0f, ++seed);
      const Packed oracle = pack(ref, format, outputs, cols, values);
      for (const bool add : {false, true}) {
        const std::vector<float> expected = multiply(ref, oracle.weight, x, kMostRows, add);
        for (const Backend* backend : runnable_backends()) {
          if (backend == &ref || !backend->supports(format)) continue;
          const Packed packed = pack(*backend, format, outputs, cols, values);
          for (const int64_t rows : kRowCounts) {
            const std::vector<float> y = multiply(*backend, packed.weight, x, rows, add);
            for (size_t i = 0; i < y.size(); ++i)
              ASSERT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(expected[i]))
                  << backend->name << " " << name(format) << " [" << outputs << ", " << cols << "] rows " << rows
                  << " at row " << i / static_cast<size_t>(outputs) << " output " << i % static_cast<size_t>(outputs)
                  << ": " << y[i] << " != " << expected[i];
          }
        }
      }
    }
  }
}

TEST_F(Quantized, TheOracleIsTheFormula) {
  constexpr int64_t kOutputs = 9, kCols = 256;
  const Backend& ref = *runnable_backends()[0];
  for (WeightFormat format : kFormats) {
    // Beside zero, so that zero points matter.
    std::vector<float> values = normal(kOutputs * kCols, 0.02f, 50);
    for (float& value : values) value += 0.015f;
    const std::vector<float> x = normal(kCols, 1, 51);
    const int32_t group = group_size(format, kCols);
    const Packed packed = pack(ref, format, kOutputs, kCols, values);
    const std::vector<float> y = multiply(ref, packed.weight, x, 1, false);
    std::vector<int8_t> codes(static_cast<size_t>(group)), x_codes(static_cast<size_t>(group));
    int64_t shifted = 0;
    for (int64_t n = 0; n < kOutputs; ++n) {
      float expected = 0;
      for (int64_t k = 0; k < kCols; k += group) {
        const GroupGrid grid = quantize_group(format, values.data() + n * kCols + k, group, codes.data());
        const float x_scale = quantize_activations(x.data() + k, group, x_codes.data());
        shifted += grid.zero != 0;
        int32_t dot = 0, sum = 0;
        for (size_t i = 0; i < codes.size(); ++i) {
          dot += codes[i] * x_codes[i];
          sum += x_codes[i];
        }
        expected = std::fma(static_cast<float>(dot - grid.zero * sum), grid.scale * x_scale, expected);
      }
      EXPECT_EQ(std::bit_cast<uint32_t>(y[static_cast<size_t>(n)]), std::bit_cast<uint32_t>(expected)) << name(format);
    }
    EXPECT_EQ(shifted > 0, has_zero_points(format)) << "the case is to need zero points";
  }
}

TEST_F(Quantized, GroupedMatmulEqualsOneMatmulPerExpert) {
  constexpr int64_t kOutputs = 40, kCols = 128;
  const std::vector<int32_t> offsets{0, 3, 3, 10, 11, 40};  // the third and the last are many enough for tiles
  std::vector<int32_t> row_ids{4, 0, 2, 1, 1, 5, 6, 3, 2, 0, 6};
  for (int32_t i = 11; i < 40; ++i) row_ids.push_back(i * 5 % 7);
  const std::vector<float> x = normal(7 * kCols, 1, 5);
  for (const Backend* backend : runnable_backends()) {
    for (WeightFormat format : kFormats) {
      if (!backend->supports(format)) continue;
      std::vector<Packed> experts;
      std::vector<Weight> weights;
      for (uint32_t e = 0; e < 5; ++e) {
        experts.push_back(pack(*backend, format, kOutputs, kCols, normal(kOutputs * kCols, 0.02f, 100 + e)));
        weights.push_back(experts.back().weight);
      }
      std::vector<float> y(40 * kOutputs, NAN);
      backend->grouped_matmul({.x = x.data(),
                               .row_ids = row_ids.data(),
                               .x_stride = kCols,
                               .offsets = offsets,
                               .weights = weights,
                               .y = y.data(),
                               .y_stride = kOutputs},
                              context_);
      for (size_t expert = 0; expert < 5; ++expert) {
        for (int32_t row = offsets[expert]; row < offsets[expert + 1]; ++row) {
          const auto from = x.begin() + row_ids[static_cast<size_t>(row)] * kCols;
          const std::vector<float> one = multiply(*backend, weights[expert], {from, from + kCols}, 1, false);
          EXPECT_TRUE(std::equal(one.begin(), one.end(), y.begin() + row * kOutputs))
              << backend->name << " row " << row;
        }
      }
    }
  }
}

TEST_F(Quantized, ErrorIsThatOfRoundingAndTheSearchBeatsPlainRounding) {
  constexpr int32_t kCount = 32;
  const std::vector<float> weights = normal(32 * 4096, 0.02f, 9);
  double searched = 0, plain = 0, total = 0;
  int8_t codes[kCount];
  for (size_t g = 0; g < weights.size(); g += kCount) {
    const float scale = quantize_weights(weights.data() + g, kCount, 4, codes);
    float peak = 0;
    for (int32_t i = 0; i < kCount; ++i) peak = std::max(peak, std::abs(weights[g + i]));
    for (int32_t i = 0; i < kCount; ++i) {
      const float w = weights[g + i];
      ASSERT_TRUE(codes[i] >= -8 && codes[i] <= 7);
      searched += std::pow(w - scale * codes[i], 2);
      plain += std::pow(w - peak / 7 * std::nearbyint(w / (peak / 7)), 2);
      total += w * w;
    }
  }
  std::printf("int4-g32: relative error %.4f searched, %.4f plain rounding\n", std::sqrt(searched / total),
              std::sqrt(plain / total));
  EXPECT_LT(searched, 0.85 * plain);
}

TEST_F(Quantized, ZerosAndTinyGroupsAreExact) {
  const std::vector<float> zeros(32, 0.0f);
  int8_t codes[32];
  EXPECT_EQ(quantize_weights(zeros.data(), 32, 4, codes), 0);
  EXPECT_EQ(quantize_weights(zeros.data(), 32, 8, codes), 0);
  EXPECT_EQ(quantize_activations(zeros.data(), 32, codes), 0);
  const std::vector<float> one(32, 1.0f);
  EXPECT_EQ(quantize_activations(one.data(), 32, codes), 1.0f / 127);
  EXPECT_EQ(codes[31], 127);
}

TEST_F(Quantized, GroupsFallBackToWhatDividesTheWidth) {
  EXPECT_EQ(group_size(WeightFormat::kInt4G128, 1408), 128);
  EXPECT_EQ(group_size(WeightFormat::kInt4G128, 704), 64);
  EXPECT_EQ(group_size(WeightFormat::kInt4G128, 96), 32);
  EXPECT_EQ(group_size(WeightFormat::kInt4G32, 48), 0);
  EXPECT_EQ(storage_format(WeightFormat::kInt4G32, 48), WeightFormat::kBF16);
  EXPECT_EQ(storage_format(WeightFormat::kF32, 48), WeightFormat::kF32);
}

}  // namespace
}  // namespace sluice
