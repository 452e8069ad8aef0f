// The running softmax (arXiv:2205.14135) of one query row over tiles of keys, for 16 heads at once: lanes are heads.
#pragma once

#include <limits>

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

struct HeadsSoftmax {
  F32x16 peak = broadcast(-std::numeric_limits<float>::infinity());
  F32x16 sum = zero();

  // Scores [count][16] -> probabilities; returns what earlier sums are to be scaled by.
  F32x16 fold(float* scores, int32_t count) {
    F32x16 new_peak = peak;
    for (int32_t key = 0; key < count; ++key) new_peak = max(new_peak, load(scores + key * kLanes));
    const F32x16 alpha = exp(peak - new_peak);  // first tile: exp(-inf) = 0
    sum = sum * alpha;
    for (int32_t key = 0; key < count; ++key) {
      const F32x16 probability = exp(load(scores + key * kLanes) - new_peak);
      store(scores + key * kLanes, probability);
      sum = sum + probability;
    }
    peak = new_peak;
    return alpha;
  }
};

}  // namespace sluice::cpu::SLUICE_ISA
