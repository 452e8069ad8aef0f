// silu(gate) * up: a thread per 8 outputs.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kSiluThreads = 128;

__global__ void __launch_bounds__(kSiluThreads) silu_mul_kernel(const SiluMulParams params) {
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kSiluThreads + threadIdx.x) * kVecBf16;  // in y
  if (begin >= static_cast<int64_t>(params.rows) * params.width) return;
  const int64_t row = begin / params.width;
  const bf16* gate_row = params.gate_up + begin + row * params.width;  // row * 2 * width + begin % width
  const Vec16 gate = load16(gate_row), up = load16(gate_row + params.width);
  Vec16 y;
#pragma unroll
  for (int w = 0; w < 4; ++w)
    y.words[w] = pack_bf16(silu(low_f32(gate.words[w])) * low_f32(up.words[w]),
                           silu(high_f32(gate.words[w])) * high_f32(up.words[w]));
  store16(params.y + begin, y);
}

void silu_mul(const SiluMulParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.width > 0 && params.width % kVecBf16 == 0, params.width);
  const int64_t threads = int64_t{params.rows} * (params.width / kVecBf16);
  launch(silu_mul_kernel, dim3(static_cast<unsigned>(ceil_div(threads, kSiluThreads))), dim3(kSiluThreads), 0, stream,
         params);
}

}  // namespace sluice::cuda
