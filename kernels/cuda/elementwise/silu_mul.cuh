// silu(gate) * up: a thread per 8 outputs, blocks (row, part of the row).
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kSiluThreads = 128;

__global__ void __launch_bounds__(kSiluThreads) silu_mul_kernel(const SiluMulParams params) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int32_t column = static_cast<int32_t>(blockIdx.y * kSiluThreads + threadIdx.x) * kVecBf16;
  if (column >= params.width) return;
  const bf16* gate_row = params.gate_up + row * 2 * params.width + column;
  const Vec16 gate = load16(gate_row), up = load16(gate_row + params.width);
  const float limit = params.limit > 0 ? params.limit : INFINITY;
  const auto product = [&](float g, float u) {
    u = u < -limit ? -limit : u > limit ? limit : u;
    return silu(g > limit ? limit : g) * u;
  };
  Vec16 y;
#pragma unroll
  for (int w = 0; w < 4; ++w)
    y.words[w] = pack_bf16(product(low_f32(gate.words[w]), low_f32(up.words[w])),
                           product(high_f32(gate.words[w]), high_f32(up.words[w])));
  store16(params.y + row * params.width + column, y);
}

void silu_mul(const SiluMulParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.width > 0 && params.width % kVecBf16 == 0, params.width);
  const auto parts = static_cast<unsigned>(ceil_div(params.width / kVecBf16, kSiluThreads));
  launch(silu_mul_kernel, dim3(static_cast<unsigned>(params.rows), parts), dim3(kSiluThreads), 0, stream, params);
}

}  // namespace sluice::cuda
