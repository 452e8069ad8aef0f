// exp by integers: the weights of sampling, the same on every device and in the emulated grid.
#pragma once

#include "kernels/cuda/device.cuh"

namespace sluice::cuda {

constexpr int kWeightBits = 44;  // exp(0) = 2^44

// round(2^44 exp(-x)) for x in [0, 64).
//   x as Q6.56, y = x log2(e) as Q7.55 = n + f;  exp(-x) = 2^-n 2^-f;  f's upper three bits by products of 2^-1/2,
//   2^-1/4 and 2^-1/8, the rest g = f ln(2) < 0.0867 by the series to g^8 / 8!, whose next term is 8e-16
__device__ __forceinline__ uint64_t fixed_exp(float x) {
  const uint32_t bits = f32_to_bits(x);
  const int shift = static_cast<int>(bits >> 23) - 94;  // exponent - 127 - 23 + 56
  const uint64_t mantissa = (bits & 0x7FFFFFu) | 0x800000u;
  const uint64_t fixed = shift >= 0 ? mantissa << shift : shift > -64 ? mantissa >> -shift : 0;
  const uint64_t y = multiply_high(fixed, 0xB8AA3B295C17F0BCull);  // log2(e) 2^63
  const auto n = static_cast<int>(y >> 55);
  uint64_t f = y << 9;                 // Q0.64
  uint64_t power = uint64_t{1} << 63;  // Q1.63
  constexpr uint64_t kRoots[3] = {0xB504F333F9DE6484ull, 0xD744FCCAD69D6AF4ull, 0xEAC0C6E7DD24392Full};
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    const uint64_t bit = uint64_t{1} << (63 - i);
    if (f & bit) power = multiply_high(power, kRoots[i]);
    f &= ~bit;
  }
  const uint64_t g = multiply_high(f, 0xB17217F7D1CF79ACull);  // ln(2) 2^64
  // 2^63 / k!, rounded; sum of (-g)^k / k! by Horner.
  constexpr uint64_t kSeries[9] = {0x8000000000000000ull, 0x8000000000000000ull, 0x4000000000000000ull,
                                   0x1555555555555555ull, 0x0555555555555555ull, 0x0111111111111111ull,
                                   0x002D82D82D82D82Eull, 0x0006806806806807ull, 0x0000D00D00D00D01ull};
  uint64_t series = kSeries[8];
#pragma unroll
  for (int k = 7; k >= 0; --k) series = kSeries[k] - multiply_high(g, series);
  const uint64_t result = multiply_high(power, series);  // Q1.63 times Q1.63: Q2.62
  const int drop = 62 - kWeightBits + n;
  if (drop >= 63) return 0;
  return (result + (uint64_t{1} << (drop - 1))) >> drop;
}

}  // namespace sluice::cuda
