// A row of bf16 values in the registers of a block, and its RMS norm: what rms_norm and latent_write share.
#pragma once

#include "kernels/cuda/device.cuh"

namespace sluice::cuda {

constexpr int kMaxRowThreads = 256;

struct RowNormShared {
  float partials[kMaxRowThreads / kWarp];
};

// Threads for a row of cols values: one per 16-byte vector, in whole warps, at most 256.
inline int row_threads(int cols) {
  const auto vectors = static_cast<int>(ceil_div(cols / kVecBf16, kWarp)) * kWarp;
  return vectors < kMaxRowThreads ? vectors : kMaxRowThreads;
}

// Sums over the block; every thread receives the result. Order: lanes by butterfly, then warps ascending, whatever the
// number of rows.
__device__ __forceinline__ float block_sum(float value, RowNormShared& shared) {
  const int num_warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_sum(value);
  if (lane_id() == 0) shared.partials[warp_id()] = value;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < num_warps; ++warp) sum += shared.partials[warp];
  return sum;
}

// Vector v of a thread holds values [8 (v * threads + thread), + 8) of the row.
template <int kVecs>
struct RowRegisters {
  Vec16 vecs[kVecs];

  __device__ __forceinline__ static int begin(int v) {
    return kVecBf16 * (v * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
  }

  __device__ __forceinline__ void load(const bf16* row, int cols) {
#pragma unroll
    for (int v = 0; v < kVecs; ++v)
      if (begin(v) < cols) vecs[v] = load16(row + begin(v));
  }

  // row[i] = this[i] + row[i], rounded, kept here too.
  __device__ __forceinline__ void add_into(bf16* row, int cols) {
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
      if (begin(v) >= cols) continue;
      const Vec16 old = load16(row + begin(v));
      for (int w = 0; w < 4; ++w)
        vecs[v].words[w] = pack_bf16(low_f32(old.words[w]) + low_f32(vecs[v].words[w]),
                                     high_f32(old.words[w]) + high_f32(vecs[v].words[w]));
      store16(row + begin(v), vecs[v]);
    }
  }

  __device__ __forceinline__ float sum_of_squares(int cols) const {
    float sum = 0;
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
      if (begin(v) >= cols) continue;
      for (int w = 0; w < 4; ++w) {
        sum = fma_f32(low_f32(vecs[v].words[w]), low_f32(vecs[v].words[w]), sum);
        sum = fma_f32(high_f32(vecs[v].words[w]), high_f32(vecs[v].words[w]), sum);
      }
    }
    return sum;
  }

  // y = weight * (this * factor)
  __device__ __forceinline__ void store_scaled(float factor, const float* weight, bf16* y, int cols) const {
#pragma unroll
    for (int v = 0; v < kVecs; ++v) {
      if (begin(v) >= cols) continue;
      Vec16 out;
      for (int w = 0; w < 4; ++w) {
        const float* pair = weight + begin(v) + 2 * w;
        out.words[w] =
            pack_bf16(pair[0] * (low_f32(vecs[v].words[w]) * factor), pair[1] * (high_f32(vecs[v].words[w]) * factor));
      }
      store16(y + begin(v), out);
    }
  }

  __device__ __forceinline__ float rms_factor(int cols, float eps, RowNormShared& shared) const {
    return 1.0f / sqrt_f32(block_sum(sum_of_squares(cols), shared) / static_cast<float>(cols) + eps);
  }
};

}  // namespace sluice::cuda
