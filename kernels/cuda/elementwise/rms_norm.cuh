// RMSNorm, with or without the residual sum before it: a block per row, the row in registers, read once.
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/row_norm.cuh"

namespace sluice::cuda {

template <int kVecs>
__global__ void __launch_bounds__(kMaxRowThreads) rms_norm_kernel(const RmsNormParams params) {
  auto& shared = static_shared<RowNormShared>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int64_t source = params.row_ids ? params.row_ids[row] : row;
  RowRegisters<kVecs> x;
  x.load(params.x + source * params.x_stride, params.cols);
  if (params.residual) x.add_into(params.residual + row * params.cols, params.cols);
  const float factor = x.rms_factor(params.cols, params.eps, shared);
  x.store_scaled(factor, params.weight, params.y + row * params.cols, params.cols);
}

void rms_norm(const RmsNormParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.cols % kVecBf16 == 0 && params.x_stride % kVecBf16 == 0, params.cols, params.x_stride);
  SLUICE_PRECONDITION(params.cols > 0 && params.cols <= kMaxNormCols, params.cols);
  const int threads = row_threads(params.cols);
  const auto vecs = ceil_div(params.cols / kVecBf16, threads);
  const auto kernel = vecs <= 1   ? rms_norm_kernel<1>
                      : vecs <= 2 ? rms_norm_kernel<2>
                      : vecs <= 4 ? rms_norm_kernel<4>
                                  : rms_norm_kernel<8>;  // 8 * 8 values * 256 threads = kMaxNormCols
  launch(kernel, dim3(static_cast<unsigned>(params.rows)), dim3(static_cast<unsigned>(threads)), 0, stream, params);
}

}  // namespace sluice::cuda
