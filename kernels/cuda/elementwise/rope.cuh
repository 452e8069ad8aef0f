// Rotary positions in place: a thread per 8 pairs of a head.
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/rotation.cuh"

namespace sluice::cuda {

constexpr int kRopeThreads = 128;

__global__ void __launch_bounds__(kRopeThreads) rope_kernel(const RopeParams params) {
  const int32_t per_head = params.dim / 2 / kRotated;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kRopeThreads + threadIdx.x;
  const int64_t head = index / per_head;  // of all heads of all rows
  if (head >= static_cast<int64_t>(params.rows) * params.heads) return;
  const auto pair = static_cast<int>(index % per_head) * kRotated;
  bf16* x = params.x + head * params.head_dim + params.offset;
  rotate_pairs(x, x, params.cos_sin + head / params.heads * params.dim, params.dim, pair, params.layout);
}

void rope(const RopeParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.dim > 0 && params.dim % (2 * kRotated) == 0, params.dim);
  SLUICE_PRECONDITION(params.head_dim % kVecBf16 == 0 && params.offset % kVecBf16 == 0, params.head_dim, params.offset);
  SLUICE_PRECONDITION(params.offset + params.dim <= params.head_dim, params.offset, params.dim, params.head_dim);
  const int64_t threads = int64_t{params.rows} * params.heads * (params.dim / 2 / kRotated);
  launch(rope_kernel, dim3(static_cast<unsigned>(ceil_div(threads, kRopeThreads))), dim3(kRopeThreads), 0, stream,
         params);
}

}  // namespace sluice::cuda
