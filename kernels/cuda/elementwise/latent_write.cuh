// The cache entry of a row: its latent normalised by the block, its rope key rotated by the first threads.
#include "sluice/kv_layout.h"

#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/rotation.cuh"
#include "kernels/cuda/row_norm.cuh"

namespace sluice::cuda {

constexpr int kLatentThreads = kMaxLatent / kVecBf16;  // one vector a thread

__global__ void __launch_bounds__(kLatentThreads) latent_write_kernel(const LatentWriteParams params) {
  auto& shared = static_shared<RowNormShared>();
  const auto row = static_cast<int64_t>(blockIdx.x);
  const int64_t slot = params.slots[row];
  if (slot < 0) return;
  const int32_t rank = params.kv_lora_rank;
  const bf16* z = params.z + row * params.z_stride;
  bf16* entry = params.cache + slot / kPageTokens * params.page_stride + slot % kPageTokens * (rank + params.rope_dim);

  RowRegisters<1> latent;
  latent.load(z, rank);
  const float factor = latent.rms_factor(rank, params.eps, shared);
  latent.store_scaled(factor, params.norm_weight, entry, rank);
  if (const int pair = static_cast<int>(threadIdx.x) * kRotated; pair < params.rope_dim / 2)
    rotate_pairs(z + rank, entry + rank, params.cos_sin + row * params.rope_dim, params.rope_dim, pair, params.layout);
}

void latent_write(const LatentWriteParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.kv_lora_rank > 0 && params.kv_lora_rank <= kMaxLatent, params.kv_lora_rank);
  SLUICE_PRECONDITION(params.kv_lora_rank % kVecBf16 == 0 && params.rope_dim % (2 * kRotated) == 0, params.kv_lora_rank,
                      params.rope_dim);
  SLUICE_PRECONDITION(params.z_stride % kVecBf16 == 0 && params.page_stride % kVecBf16 == 0, params.z_stride,
                      params.page_stride);
  const int threads = row_threads(params.kv_lora_rank);
  SLUICE_PRECONDITION(params.rope_dim / 2 / kRotated <= threads, params.rope_dim, threads);
  launch(latent_write_kernel, dim3(static_cast<unsigned>(params.rows)), dim3(static_cast<unsigned>(threads)), 0, stream,
         params);
}

}  // namespace sluice::cuda
