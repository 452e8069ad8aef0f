// What the tests of CUDA kernels on the emulated grid share: bf16 inputs and outputs, seeds, the size of one rounding.
// The oracle gets the same bf16 values, widened, so that only the kernel's own arithmetic and its last rounding differ.
#pragma once

#include <grid.h>

#include <span>
#include <vector>

#include "sluice/tensor.h"

#include "kernels/cuda/types.h"
#include "tests/kernels/kernel_test.h"

namespace sluice::cuda {

// Half the distance from 1 to the next bf16: the largest relative error of rounding to it.
constexpr double kBf16Unit = 0x1p-8;
constexpr uint64_t kSeeds[] = {1, 2, 3};

inline std::vector<bf16> to_bf16(std::span<const float> values) {
  std::vector<bf16> result;
  for (const float value : values) result.push_back({f32_to_bf16(value)});
  return result;
}
inline std::vector<float> to_f32(std::span<const bf16> values) {
  std::vector<float> result;
  for (const bf16 value : values) result.push_back(bf16_to_f32(value.bits));
  return result;
}
inline std::vector<bf16> random_bf16(int64_t count, uint64_t seed, double deviation = 1) {
  return to_bf16(random_values(count, seed, deviation));
}

}  // namespace sluice::cuda
