// Rotary positions on 16 values at a time: what rope and latent_write share.
#pragma once

#include "sluice/rope_layout.h"

#include "kernels/cuda/device.cuh"

namespace sluice::cuda {

constexpr int kRotated = 8;  // pairs a thread rotates: two 16-byte vectors

// Pairs [pair, pair + 8) of x, [dim] values of one head, into y (which may be x).
//   kPair: (2i, 2i+1), the two vectors are neighbours; kHalf: (i, i + dim/2), they are dim/2 apart
__device__ __forceinline__ void rotate_pairs(const bf16* x, bf16* y, const float* cos_sin, int dim, int pair,
                                             RopeLayout layout) {
  const int half = dim / 2;
  const bool adjacent = layout == RopeLayout::kPair;
  const int first = adjacent ? 2 * pair : pair;
  const int second = adjacent ? 2 * pair + kVecBf16 : pair + half;
  const Vec16 a = load16(x + first), b = load16(x + second);
  // Which two values pair i takes, and where they go back to.
  float even[kRotated], odd[kRotated];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    if (adjacent) {
      even[w] = low_f32(a.words[w]);
      odd[w] = high_f32(a.words[w]);
      even[w + 4] = low_f32(b.words[w]);
      odd[w + 4] = high_f32(b.words[w]);
    } else {
      even[2 * w] = low_f32(a.words[w]);
      even[2 * w + 1] = high_f32(a.words[w]);
      odd[2 * w] = low_f32(b.words[w]);
      odd[2 * w + 1] = high_f32(b.words[w]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRotated; ++i) {
    const float cosine = cos_sin[pair + i], sine = cos_sin[half + pair + i];
    const float e = even[i], o = odd[i];
    even[i] = e * cosine - o * sine;
    odd[i] = o * cosine + e * sine;
  }
  Vec16 out_first, out_second;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    out_first.words[w] = adjacent ? pack_bf16(even[w], odd[w]) : pack_bf16(even[2 * w], even[2 * w + 1]);
    out_second.words[w] = adjacent ? pack_bf16(even[w + 4], odd[w + 4]) : pack_bf16(odd[2 * w], odd[2 * w + 1]);
  }
  store16(y + first, out_first);
  store16(y + second, out_second);
}

}  // namespace sluice::cuda
