// The number formats that only DeepSeek-V4's files have: E8M0 scales, and E2M1 ("FP4") weights, two a byte.
#pragma once

#include <cstdint>

#include "sluice/tensor.h"

namespace sluice {

// Columns of a row of FP4 weights that share a scale.
constexpr int64_t kFp4Group = 32;

float e8m0_to_f32(uint8_t bits);  // 2^(bits - 127); 255 is NaN
float e2m1_to_f32(uint8_t code);  // of the low four bits: sign, then 0, 0.5, 1, 1.5, 2, 3, 4, 6

// Elements [begin, begin + count) of scales in E8M0 or any float type.
void widen_scales(const TensorView& scales, int64_t begin, int64_t count, float* out);

// Values [begin, begin + count), both even, of packed E2M1 (dtype I8): value 2k is the low nibble of byte k, 2k + 1 the
// high one. Without their scales.
void widen_fp4(const TensorView& packed, int64_t begin, int64_t count, float* out);

}  // namespace sluice
