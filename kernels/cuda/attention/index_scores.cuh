// Scores of the lightning indexer: keys stay in registers, queries stream past them.
//
//   block    (256 keys, 32 tokens, sequence); 8 warps, each with 32 keys of its own as operand B; a key stands for one
//            position or for `ratio` of them, and its number is called its position here
//   queries  a token's heads [heads, head_dim] are operand A, double-buffered by cp.async: each key is read once for 32
//            tokens, each query once for 256 positions
//   sums     weight * max(0, product) over a lane's heads, ascending, then over the 8 lanes that share a position
#include "kernels/cuda/attention/lightning.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kIndexWarps = 8;
constexpr int kWarpPositions = 32;
constexpr int kIndexPositions = kIndexWarps * kWarpPositions;
constexpr int kIndexTokens = 32;

template <int kDim>
struct IndexScoresShared {
  static constexpr int kStride = kDim + kVecBf16;
  static_assert(kStride * sizeof(bf16) % 32 == 16, "8 rows in a row meet 8 different banks");
  alignas(16) bf16 q[2][kMaxIndexHeads][kStride];
};

// Operand B of a lane: column lane / 4 of each 8 positions.
template <int kDim>
struct IndexKeys {
  uint32_t words[kWarpPositions / 8][kDim / 16][2];

  // Keys [position_begin, position_begin + 32) of `num_keys`.
  __device__ __forceinline__ void load(const IndexScoresParams& params, int32_t sequence, int32_t position_begin,
                                       int32_t num_keys) {
    const int32_t per_page = kPageTokens / params.ratio;
#pragma unroll
    for (int tile = 0; tile < kWarpPositions / 8; ++tile) {
      const int32_t position = position_begin + tile * 8 + lane_id() / 4;
      const bool valid = position < num_keys;
      const int64_t page =
          valid ? params.pages[static_cast<int64_t>(sequence) * params.max_pages + position / per_page] : 0;
      const bf16* entry = params.cache + page * params.page_stride + position % per_page * kDim + lane_id() % 4 * 2;
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          words[tile][k][i] = valid ? *reinterpret_cast<const uint32_t*>(entry + k * 16 + i * 8) : 0;
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(kIndexWarps* kWarp) index_scores_kernel(const IndexScoresParams params) {
  auto& shared = static_shared<IndexScoresShared<kDim>>();
  const auto sequence = static_cast<int32_t>(blockIdx.z);
  const int32_t query_begin = params.query_begin[sequence], query_end = params.query_begin[sequence + 1];
  const int32_t length = params.lengths[sequence];
  const int32_t first_wanted = query_begin > params.token_begin ? query_begin : params.token_begin;
  const int32_t end_wanted = query_end < params.token_end ? query_end : params.token_end;
  const int32_t begin = first_wanted + static_cast<int32_t>(blockIdx.y) * kIndexTokens;
  const int32_t end = begin + kIndexTokens < end_wanted ? begin + kIndexTokens : end_wanted;
  const int32_t first_position = static_cast<int32_t>(blockIdx.x) * kIndexPositions;
  // Token i is at position length - query_end + i.
  if (begin >= end || first_position >= (length - query_end + end) / params.ratio) return;

  const auto load_token = [&](int32_t token, int stage) {
    constexpr int kVectors = kDim / kVecBf16;  // of a head
    if (token < end) {
      const bf16* q = params.q + static_cast<int64_t>(token) * params.heads * kDim;
      for (int i = static_cast<int>(threadIdx.x); i < params.heads * kVectors; i += kIndexWarps * kWarp)
        cp_async_16(&shared.q[stage][i / kVectors][i % kVectors * kVecBf16], q + i * kVecBf16);
    }
    cp_async_commit();
  };
  load_token(begin, 0);
  const int32_t warp_position = first_position + warp_id() * kWarpPositions;
  IndexKeys<kDim> keys;
  keys.load(params, sequence, warp_position, length / params.ratio);

  const int matrix = lane_id() / 8, row = lane_id() % 8, g = lane_id() / 4, t = lane_id() % 4;
  for (int32_t token = begin, stage = 0; token < end; ++token, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the token is there for all, and nobody reads the other stage any more
    load_token(token + 1, stage ^ 1);
    const float* weights = params.weights + static_cast<int64_t>(token) * params.heads;
    float sums[kWarpPositions / 8][2] = {};
    for (int head = 0; head < params.heads; head += 16) {
      float products[kWarpPositions / 8][4] = {};
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        uint32_t a[4];
        ldmatrix_x4(a, &shared.q[stage][head + matrix % 2 * 8 + row][k * 16 + matrix / 2 * 8]);
#pragma unroll
        for (int tile = 0; tile < kWarpPositions / 8; ++tile) mma_m16n8k16_bf16(products[tile], a, keys.words[tile][k]);
      }
      const float low = weights[head + g], high = weights[head + g + 8];
#pragma unroll
      for (int tile = 0; tile < kWarpPositions / 8; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          sums[tile][i] = fma_f32(low, max_f32(products[tile][i], 0), sums[tile][i]);
          sums[tile][i] = fma_f32(high, max_f32(products[tile][2 + i], 0), sums[tile][i]);
        }
    }
    const int32_t visible = (length - query_end + token + 1) / params.ratio;
    float* scores = params.scores + (token - params.token_begin) * params.score_stride;
#pragma unroll
    for (int tile = 0; tile < kWarpPositions / 8; ++tile)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = sums[tile][i];
        for (int mask = 4; mask < kWarp; mask *= 2) sum += shuffle_xor(sum, mask);
        const int32_t position = warp_position + tile * 8 + t * 2 + i;
        if (g == 0 && position < visible) scores[position] = sum;
      }
  }
}

void index_scores(const IndexScoresParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.heads > 0 && params.heads % 16 == 0 && params.heads <= kMaxIndexHeads, params.heads);
  SLUICE_PRECONDITION(params.head_dim == 32 || params.head_dim == 64 || params.head_dim == 128, params.head_dim);
  SLUICE_PRECONDITION(params.page_stride % kVecBf16 == 0, params.page_stride);
  SLUICE_PRECONDITION(params.ratio >= 1 && kPageTokens % params.ratio == 0, params.ratio);
  const auto kernel = params.head_dim == 32   ? index_scores_kernel<32>
                      : params.head_dim == 64 ? index_scores_kernel<64>
                                              : index_scores_kernel<128>;
  launch(
      kernel,
      dim3(static_cast<unsigned>(ceil_div(int64_t{params.max_pages} * kPageTokens / params.ratio, kIndexPositions)),
           static_cast<unsigned>(ceil_div(params.max_queries, kIndexTokens)), static_cast<unsigned>(params.sequences)),
      dim3(kIndexWarps * kWarp), 0, stream, params);
}

}  // namespace sluice::cuda
