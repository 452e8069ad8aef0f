// Rotary positions: a thread per 8 pairs of a head, blocks (row, part of its heads).
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/rotation.cuh"

namespace sluice::cuda {

constexpr int kRopeThreads = 128;

__global__ void __launch_bounds__(kRopeThreads) rope_kernel(const RopeParams params) {
  const int32_t per_head = params.dim / 2 / kRotated;
  const auto row = static_cast<int64_t>(blockIdx.x);
  const auto index = static_cast<int32_t>(blockIdx.y * kRopeThreads + threadIdx.x);
  const int32_t head = index / per_head, pair = index % per_head * kRotated;
  if (head >= params.heads) return;
  bf16* x = params.x + (row * params.heads + head) * params.head_dim + params.offset;
  bf16* y = params.y ? params.y + (row * params.heads + head) * params.y_head_dim + params.y_offset : x;
  rotate_pairs(x, y, params.cos_sin + row * params.dim, params.dim, pair, params.layout);
}

void rope(const RopeParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.dim > 0 && params.dim % (2 * kRotated) == 0, params.dim);
  SLUICE_PRECONDITION(params.head_dim % kVecBf16 == 0 && params.offset % kVecBf16 == 0, params.head_dim, params.offset);
  SLUICE_PRECONDITION(params.offset + params.dim <= params.head_dim, params.offset, params.dim, params.head_dim);
  SLUICE_PRECONDITION(!params.y || (params.y_head_dim % kVecBf16 == 0 && params.y_offset % kVecBf16 == 0 &&
                                    params.y_offset + params.dim <= params.y_head_dim),
                      params.y_head_dim, params.y_offset);
  const auto parts = static_cast<unsigned>(ceil_div(int64_t{params.heads} * (params.dim / 2 / kRotated), kRopeThreads));
  launch(rope_kernel, dim3(static_cast<unsigned>(params.rows), parts), dim3(kRopeThreads), 0, stream, params);
}

}  // namespace sluice::cuda
