// Rows of a table by id: a block per row, 16 bytes a thread and turn.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kGatherThreads = 128;

__global__ void __launch_bounds__(kGatherThreads) gather_rows_kernel(const GatherParams params) {
  const auto row = static_cast<int64_t>(blockIdx.x);
  const bf16* source = params.table + static_cast<int64_t>(params.ids[row]) * params.cols;
  bf16* target = params.y + row * params.cols;
  for (int i = static_cast<int>(threadIdx.x) * kVecBf16; i < params.cols; i += kGatherThreads * kVecBf16)
    store16(target + i, load16(source + i));
}

void gather_rows(const GatherParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.cols % kVecBf16 == 0, params.cols);
  launch(gather_rows_kernel, dim3(static_cast<unsigned>(params.rows)), dim3(kGatherThreads), 0, stream, params);
}

}  // namespace sluice::cuda
