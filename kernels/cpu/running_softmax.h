// The running softmax of one query row over tiles of 64 keys (arXiv:2205.14135), shared by both precisions of the
// expanded form; its constants by the absorbed form, too.
#pragma once

#include <algorithm>
#include <limits>

#include "sluice/kv_layout.h"

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

constexpr int32_t kTileKeys = kPageTokens;
constexpr int64_t kKeyPanels = kTileKeys / kLanes;
constexpr float kClosed = -std::numeric_limits<float>::infinity();

// scores[64] of one row, keys at or beyond num_open closed -> probabilities in place; returns the factor that earlier
// tiles are scaled by.
inline float soften(float* scores, int32_t num_open, float scale, float* row_max, float* row_sum) {
  for (int32_t key = std::max(0, num_open); key < kTileKeys; ++key) scores[key] = kClosed;
  F32x16 s[kKeyPanels];
  F32x16 peak = broadcast(kClosed);
  for (int p = 0; p < kKeyPanels; ++p) {
    s[p] = load(scores + p * kLanes) * broadcast(scale);
    peak = max(peak, s[p]);
  }
  const float new_max = std::max(*row_max, reduce_max(peak));
  F32x16 sum = zero();
  for (int p = 0; p < kKeyPanels; ++p) {
    const F32x16 probability = exp(s[p] - broadcast(new_max));
    store(scores + p * kLanes, probability);
    sum = sum + probability;
  }
  alignas(64) float alpha[kLanes];
  store(alpha, exp(broadcast(*row_max - new_max)));  // first tile: exp(-inf) = 0
  *row_sum = *row_sum * alpha[0] + reduce_add(sum);
  *row_max = new_max;
  return alpha[0];
}

}  // namespace sluice::cpu::SLUICE_ISA
