// What sampling and log probabilities share: the most likely token of a row and every token's weight.
#pragma once

#include "kernels/cuda/fixed_exp.cuh"
#include "kernels/cuda/row_select.cuh"

namespace sluice::cuda {

using WeightShared = SelectShared<uint64_t>;

// The largest logit's token, the lower id on a tie; 0 if all are NaN.
__device__ __forceinline__ int32_t most_likely(const float* logits, int32_t vocab, WeightShared& shared) {
  uint64_t least = ~uint64_t{0};
  for (auto i = static_cast<int32_t>(threadIdx.x); i < vocab; i += kSelectThreads) {
    const float logit = logits[i] == 0 ? 0.0f : logits[i];  // -0 is no less than 0
    const uint64_t candidate = uint64_t{falling_key(logit)} << 32 | static_cast<uint32_t>(i);
    least = candidate < least ? candidate : least;
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const uint64_t other = shuffle_xor(least, mask);
    least = other < least ? other : least;
  }
  if (lane_id() == 0) shared.warp_sums[warp_id()] = least;
  __syncthreads();
  for (int warp = 0; warp < kSelectWarps; ++warp)
    least = shared.warp_sums[warp] < least ? shared.warp_sums[warp] : least;
  __syncthreads();  // all have read
  return static_cast<int32_t>(least & 0x7FFFFFFFu);
}

// exp(-40) is less than half a unit of any sum that holds exp(0).
constexpr float kNegligible = 40;
constexpr float kNoCandidate = -1;

struct LogitsRow {
  const float* logits;
  float peak, temperature;

  // (peak - logit) / temperature in [0, 40), or kNoCandidate; NaN is none.
  __device__ __forceinline__ float distance(int32_t token) const {
    const float distance = (peak - logits[token]) / temperature;
    return distance < kNegligible ? distance : kNoCandidate;
  }
  __device__ __forceinline__ static uint64_t weight(float distance) { return distance < 0 ? 0 : fixed_exp(distance); }
  // Q6.26: steps of 2^-26 instead of f32's own, so that the bins of a radix walk are even.
  __device__ __forceinline__ static uint32_t key(float distance) {
    return distance < 0 ? kNoKey : static_cast<uint32_t>(distance * 0x1p26f);
  }
};

}  // namespace sluice::cuda
