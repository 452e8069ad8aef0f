// The index key of a row: a warp normalises it in f32, pairs meet in shared memory, and the rotated key is rounded
// once.
#include "kernels/cuda/attention/lightning.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kIndexWriteWarps = 4;

struct IndexWriteShared {
  float keys[kIndexWriteWarps][kMaxIndexDim];
};

__global__ void __launch_bounds__(kIndexWriteWarps* kWarp) index_write_kernel(const IndexWriteParams params) {
  auto& shared = static_shared<IndexWriteShared>();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kIndexWriteWarps + warp_id();
  if (row >= params.rows) return;
  const int64_t slot = params.slots[row];
  if (slot < 0) return;
  const int dim = params.head_dim, half = params.rope_dim / 2, lane = lane_id();
  const bf16* z = params.z + row * params.z_stride;
  float* key = shared.keys[warp_id()];
  float sum = 0, squares = 0;
  for (int i = lane; i < dim; i += kWarp) sum += to_f32(z[i]);
  const float mean = warp_sum(sum) / static_cast<float>(dim);
  for (int i = lane; i < dim; i += kWarp) squares = fma_f32(to_f32(z[i]) - mean, to_f32(z[i]) - mean, squares);
  const float factor = 1.0f / sqrt_f32(warp_sum(squares) / static_cast<float>(dim) + params.eps);
  for (int i = lane; i < dim; i += kWarp)
    key[i] = fma_f32((to_f32(z[i]) - mean) * factor, params.norm_weight[i], params.norm_bias[i]);
  warp_sync();
  bf16* entry = params.cache + slot / kPageTokens * params.page_stride + slot % kPageTokens * dim;
  const float* cos_sin = params.cos_sin + row * params.rope_dim;
  for (int pair = lane; pair < half; pair += kWarp) {
    const int first = params.layout == RopeLayout::kPair ? 2 * pair : pair;
    const int second = params.layout == RopeLayout::kPair ? 2 * pair + 1 : pair + half;
    const float a = key[first], b = key[second], cosine = cos_sin[pair], sine = cos_sin[half + pair];
    entry[first] = to_bf16(a * cosine - b * sine);
    entry[second] = to_bf16(b * cosine + a * sine);
  }
  for (int i = params.rope_dim + lane; i < dim; i += kWarp) entry[i] = to_bf16(key[i]);
}

void index_write(const IndexWriteParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.head_dim > 0 && params.head_dim <= kMaxIndexDim, params.head_dim);
  SLUICE_PRECONDITION(params.rope_dim % 2 == 0 && params.rope_dim <= params.head_dim, params.rope_dim, params.head_dim);
  launch(index_write_kernel, dim3(static_cast<unsigned>(ceil_div(params.rows, kIndexWriteWarps))),
         dim3(kIndexWriteWarps * kWarp), 0, stream, params);
}

}  // namespace sluice::cuda
