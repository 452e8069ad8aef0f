// Group quantisation as defined: codes that come from files survive, zero points help, scales fit both 16-bit types.
#include "sluice/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "sluice/tensor.h"

namespace sluice {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::kInt8,     WeightFormat::kInt4G32,  WeightFormat::kInt4G64,
                                     WeightFormat::kInt4G128, WeightFormat::kInt4G32Z, WeightFormat::kInt4G64Z,
                                     WeightFormat::kInt4G128Z};

float value_at(const GroupGrid& grid, int8_t code) { return grid.scale * static_cast<float>(code - grid.zero); }

double squared_error(WeightFormat format, const std::vector<float>& weights, size_t begin, int32_t group) {
  std::vector<int8_t> codes(static_cast<size_t>(group));
  const GroupGrid grid = quantize_group(format, weights.data() + begin, group, codes.data());
  double error = 0;
  for (size_t i = 0; i < codes.size(); ++i) error += std::pow(weights[begin + i] - value_at(grid, codes[i]), 2);
  return error;
}

// Any f16 scale, any codes, few of them or all alike; also where no code reaches the end of its range.
TEST(Quantize, WeightsThatAreCodesAlreadyComeBackExactly) {
  std::mt19937 random(7);
  for (WeightFormat format : kFormats) {
    const bool narrow = code_bits(format) == 4, zeros = has_zero_points(format);
    const int32_t group = group_size(format, 128);
    std::vector<float> weights(static_cast<size_t>(group));
    std::vector<int8_t> codes(static_cast<size_t>(group));
    for (int trial = 0; trial < 3000; ++trial) {
      const auto bits = static_cast<uint16_t>(std::uniform_int_distribution<int>(1, 0x5bff)(random));  // up to 254
      const float scale = f16_to_f32(bits);
      const int32_t zero = zeros ? std::uniform_int_distribution<int32_t>(-8, 7)(random) : 0;
      const int32_t limit = narrow ? 7 : 127;
      const int32_t reach = std::uniform_int_distribution<int32_t>(0, limit)(random);
      std::uniform_int_distribution<int32_t> code(reach == limit ? -limit - 1 : -reach, reach);
      for (float& weight : weights) weight = scale * static_cast<float>(code(random) - zero);
      const GroupGrid grid = quantize_group(format, weights.data(), group, codes.data());
      for (size_t i = 0; i < weights.size(); ++i)
        ASSERT_EQ(value_at(grid, codes[i]), weights[i])
            << name(format) << " trial " << trial << " scale " << scale << " zero " << zero << " at " << i;
      ASSERT_TRUE(grid.zero >= -8 && grid.zero <= 7 && (zeros || grid.zero == 0));
      ASSERT_EQ(f16_to_f32(f32_to_f16(grid.scale)), grid.scale);
    }
  }
}

TEST(Quantize, SearchedScalesAreF16AndBF16AndCodesInRange) {
  std::mt19937 random(8);
  for (WeightFormat format : kFormats) {
    const int32_t group = group_size(format, 128), low = code_bits(format) == 4 ? -8 : -128;
    std::vector<float> weights(static_cast<size_t>(group));
    std::vector<int8_t> codes(static_cast<size_t>(group));
    for (int trial = 0; trial < 2000; ++trial) {
      // From subnormal scales to large ones.
      std::normal_distribution<float> value(0, std::exp2(std::uniform_real_distribution<float>(-22, 8)(random)));
      for (float& weight : weights) weight = value(random);
      const GroupGrid grid = quantize_group(format, weights.data(), group, codes.data());
      ASSERT_EQ(f16_to_f32(f32_to_f16(grid.scale)), grid.scale);
      ASSERT_EQ(bf16_to_f32(f32_to_bf16(grid.scale)), grid.scale) << name(format) << " trial " << trial;
      for (int8_t each : codes) ASSERT_TRUE(each >= low && each < -low) << int{each};
    }
  }
}

// quantize_group is the definition; 16 at a time must find the same scales, zero points and codes.
TEST(Quantize, GroupsTogetherAreGroupsAlone) {
  std::mt19937 random(10);
  std::normal_distribution<float> normal(0, 1);
  for (WeightFormat format : kFormats) {
    const int32_t group = group_size(format, 128);
    for (int trial = 0; trial < 60; ++trial) {
      const int64_t num_groups = std::uniform_int_distribution<int64_t>(0, 70)(random);
      std::vector<float> weights(static_cast<size_t>(num_groups * group));
      for (int64_t g = 0; g < num_groups; ++g) {
        float* values = weights.data() + g * group;
        // From where scales are subnormal to where they are infinite; centred, beside zero, codes already, few values
        // and none.
        const float size = std::exp2(std::uniform_real_distribution<float>(-34, 24)(random));
        const int kind = std::uniform_int_distribution<int>(0, 6)(random);
        const float code_scale = f16_to_f32(f32_to_f16(std::min(size, 100.0f)));
        for (int32_t i = 0; i < group; ++i) {
          const float value = normal(random);
          values[i] = kind == 0   ? size * (value + 2)
                      : kind == 1 ? code_scale * std::clamp(std::nearbyint(3 * value), -8.0f, 7.0f)
                      : kind == 2 ? (value > 2 ? size * value : 0.0f)
                      : kind == 3 ? (i % 7 == 0 ? 40 * size : size) * value
                                  : size * value;
        }
        if (kind == 4 && trial % 5 == 0) std::fill_n(values, group, 0.0f);
        if (kind == 5 && trial % 5 == 0) std::fill_n(values, group, size);
      }
      std::vector<int8_t> together(weights.size(), 99), alone(weights.size(), 77);
      std::vector<GroupGrid> grids(static_cast<size_t>(num_groups), GroupGrid{-1, 99});
      quantize_groups(format, weights.data(), group, num_groups, together.data(), grids.data());
      for (int64_t g = 0; g < num_groups; ++g) {
        const GroupGrid want = quantize_group(format, weights.data() + g * group, group, alone.data() + g * group);
        ASSERT_EQ(grids[static_cast<size_t>(g)].scale, want.scale) << name(format) << " trial " << trial << " group " << g;
        ASSERT_EQ(grids[static_cast<size_t>(g)].zero, want.zero) << name(format) << " trial " << trial << " group " << g;
      }
      ASSERT_EQ(together, alone) << name(format) << " trial " << trial;
    }
  }
}

TEST(Quantize, AZeroPointIsNeverWorseAndHelpsWeightsBesideZero) {
  std::mt19937 random(9);
  constexpr int32_t kGroup = 32;
  double shifted[2] = {}, centred[2] = {};
  for (int trial = 0; trial < 500; ++trial) {
    for (const float mean : {0.0f, 0.02f}) {
      std::normal_distribution<float> value(mean, 0.02f);
      std::vector<float> weights(kGroup);
      for (float& weight : weights) weight = value(random);
      const double without = squared_error(WeightFormat::kInt4G32, weights, 0, kGroup);
      const double with = squared_error(WeightFormat::kInt4G32Z, weights, 0, kGroup);
      ASSERT_LE(with, without);
      (mean > 0 ? shifted : centred)[0] += without;
      (mean > 0 ? shifted : centred)[1] += with;
    }
  }
  std::printf("squared error with a zero point: %.2f of that without at mean 0, %.2f at mean 1 sigma\n",
              centred[1] / centred[0], shifted[1] / shifted[0]);
  EXPECT_LT(shifted[1], 0.75 * shifted[0]);
}

TEST(Quantize, ZeroPointFormatsInTheVocabulary) {
  const WeightFormat format = parse_weight_format("int4-g64z").value();
  EXPECT_EQ(format, WeightFormat::kInt4G64Z);
  EXPECT_EQ(group_size(format, 96), 32);
  EXPECT_EQ(storage_format(format, 48), WeightFormat::kBF16);
  EXPECT_EQ(weight_bytes(format, 3, 128), 3 * (64 + 2 * 3));
  EXPECT_FALSE(has_zero_points(WeightFormat::kInt4G64));
  EXPECT_EQ(parse_weight_format("int8z").status().to_string(),
            "INVALID_ARGUMENT: weights: expected one of auto, f32, bf16, int8, int4-g32, int4-g64, int4-g128, "
            "int4-g32z, int4-g64z, int4-g128z, found \"int8z\"");
}

TEST(Quantize, ExpandsStoredCodes) {
  const uint8_t stored[] = {0x80, 0x1f};
  float values[4];
  expand_nibbles(stored, 4, 0.5f, 8, values);
  EXPECT_EQ(std::vector<float>(values, values + 4), (std::vector<float>{-4, 0, 3.5f, -3.5f}));
  expand_bytes(stored, 2, 0.5f, 128, values);
  EXPECT_EQ(std::vector<float>(values, values + 2), (std::vector<float>{0, -48.5f}));
}

}  // namespace
}  // namespace sluice
