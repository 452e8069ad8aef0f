// The experts' answers back into their rows: a thread per 8 values of a row, slots in ascending order. Blocks (row,
// part of the row): a division of 64-bit indices is a call, for which registers are spilled.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kCombineThreads = 128;

__global__ void __launch_bounds__(kCombineThreads) combine_kernel(const CombineParams params) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int32_t column = static_cast<int32_t>(blockIdx.y * kCombineThreads + threadIdx.x) * kVecBf16;
  if (column >= params.hidden) return;
  const int64_t begin = row * params.hidden + column;
  float sums[kVecBf16] = {};
  for (int slot = 0; slot < params.top_k; ++slot) {
    const int64_t pair = row * params.top_k + slot;
    const float weight = params.weights[pair];
    const Vec16 y = load16(params.y + static_cast<int64_t>(params.places[pair]) * params.hidden + column);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      sums[2 * w] = fma_f32(weight, low_f32(y.words[w]), sums[2 * w]);
      sums[2 * w + 1] = fma_f32(weight, high_f32(y.words[w]), sums[2 * w + 1]);
    }
  }
  if (params.shared) {
    const Vec16 shared = load16(params.shared + begin);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      sums[2 * w] += low_f32(shared.words[w]);
      sums[2 * w + 1] += high_f32(shared.words[w]);
    }
  }
  Vec16 x = load16(params.x + begin);
#pragma unroll
  for (int w = 0; w < 4; ++w)
    x.words[w] = pack_bf16(low_f32(x.words[w]) + sums[2 * w], high_f32(x.words[w]) + sums[2 * w + 1]);
  store16(params.x + begin, x);
}

void combine(const CombineParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.hidden > 0 && params.hidden % kVecBf16 == 0, params.hidden);
  const auto parts = static_cast<unsigned>(ceil_div(params.hidden / kVecBf16, kCombineThreads));
  launch(combine_kernel, dim3(static_cast<unsigned>(params.rows), parts), dim3(kCombineThreads), 0, stream, params);
}

}  // namespace sluice::cuda
