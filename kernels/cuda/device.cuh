// The vocabulary of the kernels: CUDA C++ plus the named wrappers below it, and what is built from both alone. A kernel
// body includes this file and the header of its parameters, nothing else, and is compiled twice: by nvcc, and by the
// host compiler for the grid emulator (tests/support/grid/), whose folder is on the include path of those builds.
#pragma once

#include <cstdint>

#include "kernels/cuda/types.h"

#if defined(__CUDACC__)
#include "kernels/cuda/ptx.cuh"
#else
#include <grid.h>
#endif

namespace sluice::cuda {

constexpr int kWarp = 32;

constexpr int kVecBf16 = 8;  // bf16 values in a Vec16

// A number as a type, so that a lambda's argument can be a constant.
template <int kValue>
struct Constant {
  static constexpr int value = kValue;
};

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_id() { return static_cast<int>(threadIdx.x) / kWarp; }

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ __forceinline__ float to_f32(bf16 value) { return bits_to_f32(uint32_t{value.bits} << 16); }
__device__ __forceinline__ bf16 to_bf16(float value) { return {static_cast<uint16_t>(pack_bf16(value, 0) & 0xFFFF)}; }

// The two bf16 values of a word, widened.
__device__ __forceinline__ float low_f32(uint32_t pair) { return bits_to_f32(pair << 16); }
__device__ __forceinline__ float high_f32(uint32_t pair) { return bits_to_f32(pair & 0xFFFF0000u); }

__device__ __forceinline__ Vec16 load16(const void* address) { return *static_cast<const Vec16*>(address); }
__device__ __forceinline__ void store16(void* address, Vec16 value) { *static_cast<Vec16*>(address) = value; }

// Butterflies: every lane receives the result, and every lane adds in the same order.
__device__ __forceinline__ float warp_sum(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value = max_f32(value, shuffle_xor(value, mask));
  return value;
}

// Sums over lanes [0, lane].
__device__ __forceinline__ int32_t warp_inclusive_sum(int32_t value) {
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const int32_t below = shuffle_up(value, delta);
    if (lane_id() >= delta) value += below;
  }
  return value;
}

// silu(z) = z / (1 + exp(-z))
__device__ __forceinline__ float silu(float z) { return z / (1.0f + exp_f32(-z)); }

}  // namespace sluice::cuda
