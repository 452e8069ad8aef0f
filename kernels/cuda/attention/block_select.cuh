// Which pages a token attends to: a block per token estimates by their means how much attention each gets, then cuts.
//
//   heads    16 at a time, their queries as operand A in shared memory
//   means    8 pages' at a time, a warp's; operand B straight from memory, since no other warp wants it
//   pass 1   each head's running maximum and sum over all pages, merged over the warps in ascending order: the
//            denominator of its softmax
//   pass 2   the same scores again, now as probabilities, summed over the heads. Scores of 128 heads of a long context
//            would fill gigabytes for a prompt chunk, and means are 1/64 of the entries
//
// A page's mass is added by one warp, heads ascending.
#include "kernels/cuda/attention/block.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/row_select.cuh"

namespace sluice::cuda {

constexpr int kHeadTile = 16;

template <int kWidth>
struct BlockSelectShared {
  static constexpr int kStride = kWidth + kVecBf16;
  static_assert(kStride * sizeof(bf16) % 32 == 16, "8 rows in a row meet 8 different banks");
  alignas(16) bf16 q[kHeadTile][kStride];
  float peaks[kSelectWarps][kHeadTile], sums[kSelectWarps][kHeadTile];
  SelectShared<uint32_t> select;
};

// What a token chooses from: pages [0, own).
struct BlockToken {
  int32_t index, own;
  const int32_t* pages;
};

// Scores of the tile's 16 heads against pages [first, first + 8), times scale and log2(e); -inf from the own page on.
template <int kWidth>
__device__ __forceinline__ void score_means(const BlockSelectShared<kWidth>& shared, const BlockSelectParams& params,
                                            const BlockToken& token, int32_t first, float (&scores)[4]) {
  constexpr float kLog2E = 1.4426950408889634f;
  const int matrix = lane_id() / 8, row = lane_id() % 8, g = lane_id() / 4, t = lane_id() % 4;
  const bool valid = first + g < token.own;
  const int64_t page = valid ? token.pages[first + g] : 0;
  const bf16* entry = params.means + page * params.means_stride + t * 2;
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = 0;
#pragma unroll 4
  for (int k = 0; k < kWidth; k += 16) {
    uint32_t a[4], b[2];
    ldmatrix_x4(a, &shared.q[matrix % 2 * 8 + row][k + matrix / 2 * 8]);
#pragma unroll
    for (int i = 0; i < 2; ++i) b[i] = valid ? *reinterpret_cast<const uint32_t*>(entry + k + i * 8) : 0;
    mma_m16n8k16_bf16(scores, a, b);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    scores[i] = first + t * 2 + i % 2 < token.own ? scores[i] * (params.scale * kLog2E) : -INFINITY;
}

// Adds (peak, sum) of another part of the same softmax.
__device__ __forceinline__ void merge_softmax(float& peak, float& sum, float other_peak, float other_sum) {
  const float next = max_f32(peak, other_peak);
  if (next == -INFINITY) return;
  sum = sum * exp2_fast(peak - next) + other_sum * exp2_fast(other_peak - next);
  peak = next;
}

// log2 of each head's denominator, for the lane's two rows; +inf for heads that are not there.
template <int kWidth>
__device__ __forceinline__ void denominators(BlockSelectShared<kWidth>& shared, const BlockSelectParams& params,
                                             const BlockToken& token, int32_t head_begin, float (&logs)[2]) {
  const int g = lane_id() / 4, t = lane_id() % 4;
  float peak[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  for (int32_t first = warp_id() * 8; first < token.own; first += kSelectWarps * 8) {
    float scores[4];
    score_means(shared, params, token, first, scores);
#pragma unroll
    for (int i = 0; i < 4; ++i) merge_softmax(peak[i / 2], sum[i / 2], scores[i], 1);
  }
#pragma unroll
  for (int upper = 0; upper < 2; ++upper) {
    for (int mask = 1; mask < 4; mask *= 2) {
      const float other_peak = shuffle_xor(peak[upper], mask), other_sum = shuffle_xor(sum[upper], mask);
      merge_softmax(peak[upper], sum[upper], other_peak, other_sum);
    }
    if (t == 0) {
      shared.peaks[warp_id()][g + upper * 8] = peak[upper];
      shared.sums[warp_id()][g + upper * 8] = sum[upper];
    }
  }
  __syncthreads();
#pragma unroll
  for (int upper = 0; upper < 2; ++upper) {
    float all_peak = -INFINITY, all_sum = 0;
    for (int warp = 0; warp < kSelectWarps; ++warp)
      merge_softmax(all_peak, all_sum, shared.peaks[warp][g + upper * 8], shared.sums[warp][g + upper * 8]);
    logs[upper] = head_begin + g + upper * 8 < params.heads ? all_peak + log2_f32(all_sum) : INFINITY;
  }
}

template <int kWidth>
__device__ __forceinline__ void estimate_mass(BlockSelectShared<kWidth>& shared, const BlockSelectParams& params,
                                              const BlockToken& token, float* mass) {
  constexpr int kVectors = kWidth / kVecBf16;
  for (int32_t head_begin = 0; head_begin < params.heads; head_begin += kHeadTile) {
    const bf16* q = params.q + (static_cast<int64_t>(token.index) * params.heads + head_begin) * kWidth;
    for (int i = static_cast<int>(threadIdx.x); i < kHeadTile * kVectors; i += kSelectThreads) {
      const bool valid = head_begin + i / kVectors < params.heads;
      cp_async_16(&shared.q[i / kVectors][i % kVectors * kVecBf16], valid ? q + i * kVecBf16 : params.q, valid);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    float logs[2];
    denominators(shared, params, token, head_begin, logs);
    for (int32_t first = warp_id() * 8; first < token.own; first += kSelectWarps * 8) {
      float scores[4];
      score_means(shared, params, token, first, scores);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float sum = exp2_fast(scores[i] - logs[0]) + exp2_fast(scores[2 + i] - logs[1]);
        for (int mask = 4; mask < kWarp; mask *= 2) sum += shuffle_xor(sum, mask);
        const int32_t place = first + lane_id() % 4 * 2 + i;
        if (lane_id() < 4 && place < token.own) mass[place] = head_begin == 0 ? sum : mass[place] + sum;
      }
    }
    __syncthreads();  // nobody reads these queries and sums any more; masses are there for all
  }
}

// Two blocks a multiprocessor: left to itself nvcc 13 aims at three for sm_80, and spills.
template <int kWidth>
__global__ void __launch_bounds__(kSelectThreads, 2) block_select_kernel(const BlockSelectParams params) {
  auto& shared = static_shared<BlockSelectShared<kWidth>>();
  BlockToken token;
  token.index = static_cast<int32_t>(blockIdx.x);
  const int32_t position = params.positions[token.index];
  token.own = position / kPageTokens;
  token.pages = params.pages + static_cast<int64_t>(params.token_sequence[token.index]) * params.max_pages;
  int32_t* list = params.list + static_cast<int64_t>(token.index) * params.num_pages;
  const auto thread = static_cast<int32_t>(threadIdx.x);

  int32_t listed = token.own + 1;
  if (listed <= params.num_pages) {
    for (int32_t i = thread; i < listed; i += kSelectThreads) list[i] = i;
  } else {
    float* mass = params.mass + static_cast<int64_t>(token.index) * params.max_pages;
    estimate_mass(shared, params, token, mass);
    const int32_t window_begin = token.own - params.window_pages + 1;
    const int32_t between = window_begin - params.sink_pages;
    const int32_t wanted = params.num_pages - params.sink_pages - params.window_pages;
    const auto key_at = [&](int32_t i) { return falling_key(mass[params.sink_pages + i]); };
    int32_t chosen = 0;
    if (wanted > 0) {
      const Cut cut = select_cut(
          between, shared.select, key_at, [](int32_t) { return 1u; },
          [&](uint32_t) { return static_cast<uint32_t>(wanted); });
      __syncthreads();
      chosen = write_kept(
          between, shared.select, [&](int32_t i) { return cut.keeps(key_at(i), i); }, list + params.sink_pages,
          params.sink_pages);
    }
    for (int32_t i = thread; i < params.sink_pages; i += kSelectThreads) list[i] = i;
    for (int32_t i = thread; i < params.window_pages; i += kSelectThreads)
      list[params.sink_pages + chosen + i] = window_begin + i;
    listed = params.sink_pages + chosen + params.window_pages;
  }
  if (thread == 0) params.lengths[token.index] = (listed - 1) * kPageTokens + position % kPageTokens + 1;
}

void block_select(const BlockSelectParams& params, Stream stream) {
  SLUICE_PRECONDITION(
      params.sink_pages >= 0 && params.window_pages >= 1 && params.sink_pages + params.window_pages <= params.num_pages,
      params.sink_pages, params.window_pages, params.num_pages);
  SLUICE_PRECONDITION((params.latent == 512 && params.rope == 64) || (params.latent == 256 && params.rope == 32) ||
                          (params.latent == 64 && params.rope == 16),
                      params.latent, params.rope);
  const auto kernel = params.latent == 64    ? block_select_kernel<80>
                      : params.latent == 256 ? block_select_kernel<288>
                                             : block_select_kernel<576>;
  launch(kernel, dim3(static_cast<unsigned>(params.tokens)), dim3(kSelectThreads), 0, stream, params);
}

}  // namespace sluice::cuda
