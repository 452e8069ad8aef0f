// The best positions of a row of scores: a block per row finds the cut and writes what it keeps in order.
#include "kernels/cuda/attention/lightning.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/row_select.cuh"

namespace sluice::cuda {

__global__ void __launch_bounds__(kSelectThreads) index_select_kernel(const IndexSelectParams params) {
  auto& shared = static_shared<SelectShared<uint32_t>>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const float* scores = params.scores + row * params.score_stride;
  const int32_t count = params.counts[row];
  const auto key_at = [&](int32_t i) { return falling_key(scores[i] == 0 ? 0.0f : scores[i]); };
  Cut cut;
  if (count > params.top_k) {
    cut = select_cut(
        count, shared, key_at, [](int32_t) { return 1u; },
        [&](uint32_t) { return static_cast<uint32_t>(params.top_k); });
    __syncthreads();
  }
  const int32_t kept = write_kept(
      count, shared, [&](int32_t i) { return cut.keeps(key_at(i), i); }, params.list + row * params.top_k);
  if (threadIdx.x == 0) params.lengths[row] = kept;
}

void index_select(const IndexSelectParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.top_k > 0, params.top_k);
  launch(index_select_kernel, dim3(static_cast<unsigned>(params.rows)), dim3(kSelectThreads), 0, stream, params);
}

}  // namespace sluice::cuda
