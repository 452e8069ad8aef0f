// Every bit pattern of the small float types, against arithmetic in double.
#include "sluice/tensor.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace sluice {
namespace {

// Value of a small float by its definition.
double decode(uint32_t bits, int exponent_bits, int mantissa_bits, int bias) {
  const double sign = (bits >> (exponent_bits + mantissa_bits)) & 1 ? -1 : 1;
  const int exponent = static_cast<int>((bits >> mantissa_bits) & ((1u << exponent_bits) - 1));
  const double mantissa = (bits & ((1u << mantissa_bits) - 1)) / std::ldexp(1.0, mantissa_bits);
  return sign * (exponent == 0 ? std::ldexp(mantissa, 1 - bias) : std::ldexp(1 + mantissa, exponent - bias));
}

TEST(Tensor, F16EveryPatternThereAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_f32(static_cast<uint16_t>(bits));
    if (((bits >> 10) & 0x1f) == 0x1f) {
      EXPECT_FALSE(std::isfinite(value));
      EXPECT_EQ(std::isnan(value), (bits & 0x3ff) != 0);
      continue;
    }
    ASSERT_EQ(value, decode(bits, 5, 10, 15)) << bits;
    ASSERT_EQ(f32_to_f16(value), bits);
  }
}

TEST(Tensor, BF16EveryPatternThereAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = bf16_to_f32(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(value))));
    } else {
      ASSERT_EQ(f32_to_bf16(value), bits);
    }
  }
}

TEST(Tensor, F8EveryPatternThereAndBack) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = f8e4m3_to_f32(static_cast<uint8_t>(bits));
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      continue;
    }
    ASSERT_EQ(value, decode(bits, 4, 3, 7)) << bits;
    ASSERT_EQ(f32_to_f8e4m3(value), bits);
  }
  EXPECT_EQ(f8e4m3_to_f32(f32_to_f8e4m3(1e9f)), 448.0f);
}

// The nearest neighbour, and the even one of two: found by trying all.
template <typename Bits, typename ToF32, typename FromF32>
void expect_round_to_nearest_even(uint32_t num_patterns, ToF32 to_f32, FromF32 from_f32, float largest) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> exponent(-20, std::log2(largest) - 0.01f);
  for (int i = 0; i < 2000; ++i) {
    float value = std::exp2(exponent(random)) * (i % 2 ? -1.0f : 1.0f);
    if (i % 3 == 0) {  // exactly between two neighbours
      const float below = to_f32(from_f32(value));
      const float above = to_f32(static_cast<Bits>(from_f32(value) + 1));
      if (!std::isfinite(above)) continue;
      value = (below + above) / 2;
    }
    const double chosen = std::abs(double{to_f32(from_f32(value))} - value);
    for (uint32_t bits = 0; bits < num_patterns; ++bits) {
      const double other = to_f32(static_cast<Bits>(bits));
      if (!std::isfinite(other)) continue;
      ASSERT_LE(chosen, std::abs(other - value)) << value;
      if (chosen == std::abs(other - value) && other != to_f32(from_f32(value))) {
        ASSERT_EQ(from_f32(value) & 1, 0) << value;
      }
    }
  }
}

TEST(Tensor, F8RoundsToNearestEven) {
  expect_round_to_nearest_even<uint8_t>(256, f8e4m3_to_f32, f32_to_f8e4m3, 448);
}

TEST(Tensor, F16RoundsTiesToEvenAndOverflowsToInfinity) {
  EXPECT_EQ(f32_to_f16(1.0f + 0x1p-11f), f32_to_f16(1.0f));                // tie, down to even
  EXPECT_EQ(f32_to_f16(1.0f + 3 * 0x1p-11f), f32_to_f16(1.0f + 0x1p-9f));  // tie, up to even
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0);  // tie with zero
  EXPECT_EQ(f32_to_f16(std::nextafter(0x1p-25f, 1.0f)), 1);
}

TEST(Tensor, WidenReadsUnalignedBytes) {
  std::vector<std::byte> bytes(1 + 4 * sizeof(float));
  const float values[] = {1.5f, -2.25f, 1e-30f, 3e30f};
  std::memcpy(bytes.data() + 1, values, sizeof(values));
  float out[2];
  widen_to_f32({bytes.data() + 1, DType::kF32, Shape{4}}, 1, 2, out);
  EXPECT_EQ(out[0], -2.25f);
  EXPECT_EQ(out[1], 1e-30f);
}

TEST(Tensor, ShapePrintsAndCounts) {
  EXPECT_EQ((Shape{64, 256}).to_string(), "[64, 256]");
  EXPECT_EQ((Shape{64, 256}).num_elements(), 16384);
  EXPECT_EQ(Shape{}.num_elements(), 1);
  EXPECT_FALSE((Shape{1, 2}) == (Shape{2, 1}));
}

TEST(Tensor, BufferIsAlignedAndMoves) {
  Buffer small(100), large(size_t{9} << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(small.data()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(large.data()) % (2 << 20), 0u);
  std::byte* data = large.data();
  Buffer moved = std::move(large);
  EXPECT_EQ(moved.data(), data);
  EXPECT_EQ(large.size(), 0u);  // NOLINT: the moved-from state is part of the contract
}

}  // namespace
}  // namespace sluice
