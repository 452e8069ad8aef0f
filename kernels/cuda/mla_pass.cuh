// Latent attention of few queries against a long cache: one pass over a split's latents, online softmax, then combine.
// What mla_decode, mla_sparse and window_attention share; they differ in which entries a block loads.
//
//   block    (rows of a sequence, split, sequence); 4 warps for each 16 rows
//   tile     32 positions of one page, double-buffered by cp.async; rows padded by 16 bytes: ldmatrix meets 8 banks
//   scores   warp w of a row tile: 16 rows x positions [8w, 8w + 8) over latent + rope, through shared memory to all
//   softmax  each of the four keeps the same running maxima and sums of its 16 rows
//   mix      warp w: 16 rows x a quarter of the latent columns, the tile's latents as operand B (transposed ldmatrix)
//
// A latent row is read from memory once for all heads and serves as key and as value. DeepSeek-V4's vectors are latents
// without a rope part: their own last dims are rotated, and the values' rotation is undone behind the mix.
#pragma once

#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kTilePositions = 32;
constexpr int kTileRows = 16;
constexpr int kRowTileWarps = 4;
constexpr int kScoreStride = kTilePositions + 4;
constexpr float kLog2E = 1.4426950408889634f;
static_assert(kPageTokens % kTilePositions == 0, "a tile lies in one page");

template <int kLatent, int kRope, int kRowTiles>
struct MlaShared {
  static constexpr int kStride = kLatent + kRope + kVecBf16;
  static_assert(kStride * sizeof(bf16) % 32 == 16, "8 rows in a row meet 8 different banks");
  alignas(16) bf16 q[kRowTiles * kTileRows][kStride];
  alignas(16) bf16 entries[2][kTilePositions][kStride];
  float scores[kRowTiles][kTileRows][kScoreStride];
};

// What a block attends: rows [row_begin, num_rows) of the sequence from the first, positions [begin, end); with a list,
// positions count its places.
struct MlaBlock {
  int32_t sequence, first_token, num_queries, row_begin, num_rows, length, begin, end;
};

__device__ __forceinline__ void locate_queries(const MlaDecodeParams& params, MlaBlock& block) {
  block.sequence = static_cast<int32_t>(blockIdx.z);
  block.first_token = params.query_begin[block.sequence];
  block.num_queries = params.query_begin[block.sequence + 1] - block.first_token;
  block.length = params.lengths[block.sequence];
}

__device__ __forceinline__ void locate_queries(const MlaSparseParams& params, MlaBlock& block) {
  block.first_token = static_cast<int32_t>(blockIdx.z);
  block.sequence = params.token_sequence[block.first_token];
  block.num_queries = 1;
  block.length = params.lengths[block.first_token];
}

template <typename Params>
__device__ __forceinline__ MlaBlock locate_sequence(const Params& params, const MlaConfig& config,
                                                    int32_t rows_per_block) {
  MlaBlock block;
  locate_queries(params, block);
  block.row_begin = static_cast<int32_t>(blockIdx.x) * rows_per_block;
  block.num_rows = block.num_queries * params.heads;
  const int32_t split_positions = config.split_pages * kPageTokens;
  block.begin = static_cast<int32_t>(blockIdx.y) * split_positions;
  block.end = block.begin + split_positions < block.length ? block.begin + split_positions : block.length;
  return block;
}

// Where the partial latents of a row and split lie: index of partial_lse, times latent of partial.
template <typename Params>
__device__ __forceinline__ int64_t partial_index(const Params& params, const MlaBlock& block, int32_t row,
                                                 int32_t split, int32_t num_splits) {
  return (static_cast<int64_t>(block.first_token) * params.heads + row) * num_splits + split;
}

template <typename Shared, int kWidth, int kRows, typename Params>
__device__ __forceinline__ void load_queries(Shared& shared, const Params& params, const MlaBlock& block) {
  constexpr int kVectors = kWidth / kVecBf16;
  const bf16* q = params.q + static_cast<int64_t>(block.first_token) * params.heads * kWidth;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kVectors; i += static_cast<int>(blockDim.x)) {
    const int row = i / kVectors, column = i % kVectors * kVecBf16;
    const bool valid = block.row_begin + row < block.num_rows;
    const bf16* source = q + static_cast<int64_t>(block.row_begin + row) * kWidth + column;
    cp_async_16(&shared.q[row][column], valid ? source : params.q, valid);
  }
}

// Positions [position, position + 32); beyond the sequence's end zeros, so that nothing times them is nothing.
template <int kWidth, int kStride>
__device__ __forceinline__ void load_entries(bf16 (&entries)[kTilePositions][kStride], const MlaDecodeParams& params,
                                             const MlaBlock& block, int32_t position) {
  constexpr int kVectors = kWidth / kVecBf16;
  const int64_t page = params.pages[static_cast<int64_t>(block.sequence) * params.max_pages + position / kPageTokens];
  const bf16* first = params.cache + page * params.page_stride + static_cast<int64_t>(position % kPageTokens) * kWidth;
  for (int i = static_cast<int>(threadIdx.x); i < kTilePositions * kVectors; i += static_cast<int>(blockDim.x)) {
    const int row = i / kVectors, column = i % kVectors * kVecBf16;
    const bool valid = position + row < block.end;
    cp_async_16(&entries[row][column], valid ? first + row * kWidth + column : first, valid);
  }
}

// The same of places [place, place + 32) of the token's list: a few threads to a row, which looks its position up once.
template <int kWidth, int kStride>
__device__ __forceinline__ void load_entries(bf16 (&entries)[kTilePositions][kStride], const MlaSparseParams& params,
                                             const MlaBlock& block, int32_t place) {
  const int threads_per_row = static_cast<int>(blockDim.x) / kTilePositions;
  const int row = static_cast<int>(threadIdx.x) / threads_per_row;
  const int first_column = static_cast<int>(threadIdx.x) % threads_per_row * kVecBf16;
  const bool valid = place + row < block.end;
  const bf16* entry = params.cache;
  if (valid) {
    const int32_t at = place + row;
    const int32_t listed = params.list[static_cast<int64_t>(block.first_token) * params.max_list + at / params.unit];
    const int32_t position = listed * params.unit + at % params.unit;
    const int64_t page = params.pages[static_cast<int64_t>(block.sequence) * params.max_pages + position / kPageTokens];
    entry += page * params.page_stride + static_cast<int64_t>(position % kPageTokens) * kWidth;
  }
  for (int column = first_column; column < kWidth; column += threads_per_row * kVecBf16)
    cp_async_16(&entries[row][column], valid ? entry + column : params.cache, valid);
}

// Scores of 16 rows against 8 positions.
template <int kWidth, int kStride>
__device__ __forceinline__ void score_positions(const bf16 (*q)[kStride], const bf16 (*entries)[kStride],
                                                float (&scores)[4]) {
  static_assert(kWidth % 16 == 0);
  const int matrix = lane_id() / 8, row = lane_id() % 8;
#pragma unroll
  for (int i = 0; i < 4; ++i) scores[i] = 0;
#pragma unroll 2
  for (int k = 0; k < kWidth / 32 * 32; k += 32) {
    uint32_t a[2][4], b[4];
    ldmatrix_x4(a[0], &q[matrix % 2 * 8 + row][k + matrix / 2 * 8]);
    ldmatrix_x4(a[1], &q[matrix % 2 * 8 + row][k + 16 + matrix / 2 * 8]);
    ldmatrix_x4(b, &entries[row][k + matrix * 8]);
    mma_m16n8k16_bf16(scores, a[0], {b[0], b[1]});
    mma_m16n8k16_bf16(scores, a[1], {b[2], b[3]});
  }
  if constexpr (kWidth % 32 != 0) {  // 80 = 2 * 32 + 16: the upper two matrices are read again and not used
    constexpr int k = kWidth / 32 * 32;
    uint32_t a[4], b[4];
    ldmatrix_x4(a, &q[matrix % 2 * 8 + row][k + matrix / 2 * 8]);
    ldmatrix_x4(b, &entries[row][k + matrix % 2 * 8]);
    mma_m16n8k16_bf16(scores, a, {b[0], b[1]});
  }
}

// The running softmax of a lane's two rows, g and g + 8 with g = lane / 4; the four lanes of a row agree on `peak`, and
// each has the sum of the positions that it has seen.
struct OnlineSoftmax {
  float peak[2] = {-INFINITY, -INFINITY};  // of scores times scale times log2(e)
  float sum[2] = {0, 0};

  // Takes a tile's scores; returns operand A of the mix, a[k16 block][word], and by what the mix so far shrinks.
  __device__ __forceinline__ void take(const float (*scores)[kScoreStride], float scale, const int32_t (&visible)[2],
                                       int32_t position, uint32_t (&a)[2][4], float (&shrink)[2]) {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      float s[kTilePositions / 4];  // positions 8 (i / 2) + 2t + i % 2 of the tile
      float tile_peak = -INFINITY;
#pragma unroll
      for (int i = 0; i < kTilePositions / 4; ++i) {
        const int column = i / 2 * 8 + t * 2 + i % 2;
        s[i] = position + column < visible[upper] ? scores[g + upper * 8][column] * scale : -INFINITY;
        tile_peak = max_f32(tile_peak, s[i]);
      }
      tile_peak = max_f32(tile_peak, shuffle_xor(tile_peak, 1));
      tile_peak = max_f32(tile_peak, shuffle_xor(tile_peak, 2));
      const float next = max_f32(peak[upper], tile_peak);
      const float base = next == -INFINITY ? 0 : next;  // nothing visible yet: every exp2 below is 0
      shrink[upper] = exp2_fast(peak[upper] - base);
      peak[upper] = next;
      sum[upper] *= shrink[upper];
#pragma unroll
      for (int i = 0; i < kTilePositions / 4; ++i) sum[upper] += s[i] = exp2_fast(s[i] - base);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i / 2][upper + i % 2 * 2] = pack_bf16(s[2 * i], s[2 * i + 1]);
    }
  }
};

// mix += a * (the tile's latents, columns [column, column + 8 kTiles))
template <int kTiles, int kStride>
__device__ __forceinline__ void mix_latents(const uint32_t (&a)[2][4], const bf16 (*entries)[kStride], int column,
                                            float (&mix)[kTiles][4]) {
  static_assert(kTiles % 2 == 0);
  const int matrix = lane_id() / 8, row = lane_id() % 8;
#pragma unroll
  for (int block = 0; block < 2; ++block) {
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, &entries[block * 16 + matrix % 2 * 8 + row][column + tile * 8 + matrix / 2 * 8]);
      mma_m16n8k16_bf16(mix[tile], a[block], {b[0], b[1]});
      mma_m16n8k16_bf16(mix[tile + 1], a[block], {b[2], b[3]});
    }
  }
}

template <int kLatent, int kRope, int kRowTiles, typename Params>
__global__ void __launch_bounds__(kRowTiles* kRowTileWarps* kWarp)
    mla_pass_kernel(const Params params, const MlaConfig config) {
  using Shared = MlaShared<kLatent, kRope, kRowTiles>;
  constexpr int kWidth = kLatent + kRope;
  constexpr int kMixTiles = kLatent / kRowTileWarps / 8;  // of 8 columns, a warp's
  auto& shared = dynamic_shared<Shared>();
  const MlaBlock block = locate_sequence(params, config, kRowTiles * kTileRows);
  if (block.row_begin >= block.num_rows || block.begin >= block.end) return;
  const int row_tile = warp_id() / kRowTileWarps, quarter = warp_id() % kRowTileWarps;
  const int g = lane_id() / 4, t = lane_id() % 4;

  int32_t rows[2], visible[2];
#pragma unroll
  for (int upper = 0; upper < 2; ++upper) {
    rows[upper] = block.row_begin + row_tile * kTileRows + g + upper * 8;
    visible[upper] = block.length - block.num_queries + rows[upper] / params.heads + 1;
  }

  load_queries<Shared, kWidth, kRowTiles * kTileRows, Params>(shared, params, block);
  load_entries<kWidth>(shared.entries[0], params, block, block.begin);
  cp_async_commit();
  OnlineSoftmax softmax;
  float mix[kMixTiles][4] = {};
  for (int32_t position = block.begin, stage = 0; position < block.end; position += kTilePositions, stage ^= 1) {
    if (position + kTilePositions < block.end)
      load_entries<kWidth>(shared.entries[stage ^ 1], params, block, position + kTilePositions);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();  // the tile is there for all

    float scores[4];
    score_positions<kWidth>(&shared.q[row_tile * kTileRows], &shared.entries[stage][quarter * 8], scores);
#pragma unroll
    for (int i = 0; i < 4; ++i) shared.scores[row_tile][g + i / 2 * 8][quarter * 8 + t * 2 + i % 2] = scores[i];
    named_barrier(1 + row_tile, kRowTileWarps * kWarp);  // the four warps' scores are there

    uint32_t a[2][4];
    float shrink[2];
    softmax.take(shared.scores[row_tile], params.scale * kLog2E, visible, position, a, shrink);
#pragma unroll
    for (int tile = 0; tile < kMixTiles; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) mix[tile][i] *= shrink[i / 2];
    mix_latents<kMixTiles>(a, shared.entries[stage], quarter * (kLatent / kRowTileWarps), mix);
    __syncthreads();  // nobody reads the tile or its scores any more
  }

  const auto split = static_cast<int32_t>(blockIdx.y), num_splits = static_cast<int32_t>(gridDim.y);
#pragma unroll
  for (int upper = 0; upper < 2; ++upper) {
    float sum = softmax.sum[upper];
    sum += shuffle_xor(sum, 1);
    sum += shuffle_xor(sum, 2);
    if (rows[upper] >= block.num_rows) continue;
    const int64_t index = partial_index(params, block, rows[upper], split, num_splits);
    const float inverse = sum > 0 ? 1.0f / sum : 0;  // 0: the row sees nothing of this split
    if (quarter == 0 && t == 0) params.partial_lse[index] = softmax.peak[upper] + log2_f32(sum);
    float* target = params.partial + index * kLatent + quarter * (kLatent / kRowTileWarps) + t * 2;
#pragma unroll
    for (int tile = 0; tile < kMixTiles; ++tile) {
      target[tile * 8] = mix[tile][upper * 2] * inverse;
      target[tile * 8 + 1] = mix[tile][upper * 2 + 1] * inverse;
    }
  }
}

constexpr int kCombineSplitThreads = 64;

// What a row of some attention has besides its entries, where it has any: a sink, that is a logit (times log2(e)) with
// no value, and a last step on 8 columns of the row's result.
template <typename Params>
__device__ __forceinline__ float sink_of(const Params&, const MlaBlock&) {
  return -INFINITY;
}
template <typename Params>
__device__ __forceinline__ void finish_columns(const Params&, const MlaBlock&, int, float (&)[kVecBf16]) {}

// out = sum over splits, ascending, of partial * exp2(lse - peak) / (exp2(sink - peak) + sum of exp2(lse - peak)).
// A block per row.
template <typename Params>
__global__ void __launch_bounds__(kCombineSplitThreads)
    mla_combine_kernel(const Params params, const MlaConfig config, const int32_t num_splits, const int32_t latent) {
  const MlaBlock block = locate_sequence(params, config, 1);
  if (block.row_begin >= block.num_rows) return;
  const int32_t positions = config.split_pages * kPageTokens;
  const int32_t used = (block.length + positions - 1) / positions;
  const int64_t index = partial_index(params, block, block.row_begin, 0, num_splits);
  const float* lse = params.partial_lse + index;
  const float sink = sink_of(params, block);
  float peak = sink;
  for (int split = 0; split < used; ++split) peak = max_f32(peak, lse[split]);
  float total = exp2_fast(sink - peak);
  for (int split = 0; split < used; ++split) total += exp2_fast(lse[split] - peak);
  bf16* out = params.out + (static_cast<int64_t>(block.first_token) * params.heads + block.row_begin) * latent;
  for (int column = static_cast<int>(threadIdx.x) * kVecBf16; column < latent;
       column += kCombineSplitThreads * kVecBf16) {
    float sums[kVecBf16] = {};
    for (int split = 0; split < used; ++split) {
      const float weight = exp2_fast(lse[split] - peak) / total;
      const float* partial = params.partial + (index + split) * latent + column;
#pragma unroll
      for (int i = 0; i < kVecBf16; ++i) sums[i] = fma_f32(weight, partial[i], sums[i]);
    }
    finish_columns(params, block, column, sums);
    Vec16 y;
#pragma unroll
    for (int w = 0; w < 4; ++w) y.words[w] = pack_bf16(sums[2 * w], sums[2 * w + 1]);
    store16(out + column, y);
  }
}

// `items` blocks in z, each with at most `rows` rows.
template <int kLatent, int kRope, int kRowTiles, typename Params>
void launch_mla_pass(const Params& params, const MlaConfig& config, int32_t items, int32_t rows, Stream stream) {
  launch(mla_pass_kernel<kLatent, kRope, kRowTiles, Params>,
         dim3(static_cast<unsigned>(ceil_div(rows, kRowTiles * kTileRows)),
              static_cast<unsigned>(max_splits(params, config)), static_cast<unsigned>(items)),
         dim3(kRowTiles * kRowTileWarps * kWarp), sizeof(MlaShared<kLatent, kRope, kRowTiles>), stream, params, config);
}

template <int kLatent, int kRope, typename Params>
void dispatch_row_tiles(const Params& params, const MlaConfig& config, int32_t items, int32_t rows, Stream stream) {
  if (config.row_tiles == 1) return launch_mla_pass<kLatent, kRope, 1>(params, config, items, rows, stream);
  launch_mla_pass<kLatent, kRope, 2>(params, config, items, rows, stream);
}

template <typename Params>
void launch_combine(const Params& params, const MlaConfig& config, int32_t items, int32_t rows, int32_t latent,
                    Stream stream) {
  const int32_t num_splits = max_splits(params, config);
  launch(mla_combine_kernel<Params>, dim3(static_cast<unsigned>(rows), 1, static_cast<unsigned>(items)),
         dim3(kCombineSplitThreads), 0, stream, params, config, num_splits, latent);
}

// Apart from the template: what depends on its parameter, nvcc 13 does not hand on as an initializer list.
inline void check_mla(int32_t heads, int32_t latent, int32_t rope, int64_t page_stride, const MlaConfig& config) {
  SLUICE_PRECONDITION(heads >= 1, heads);
  SLUICE_PRECONDITION(page_stride % kVecBf16 == 0 && config.split_pages >= 1, page_stride, config.split_pages);
  SLUICE_PRECONDITION((latent == 512 && rope == 64) || (latent == 256 && rope == 32) || (latent == 64 && rope == 16),
                      latent, rope);
  SLUICE_PRECONDITION(config.row_tiles == 1 || config.row_tiles == 2, config.row_tiles);
}

template <typename Params>
void run_mla(const Params& params, const MlaConfig& config, int32_t items, int32_t rows, Stream stream) {
  check_mla(params.heads, params.latent, params.rope, params.page_stride, config);
  if (params.latent == 64) {
    dispatch_row_tiles<64, 16>(params, config, items, rows, stream);
  } else if (params.latent == 256) {
    dispatch_row_tiles<256, 32>(params, config, items, rows, stream);
  } else {
    dispatch_row_tiles<512, 64>(params, config, items, rows, stream);
  }
  launch_combine(params, config, items, rows, params.latent, stream);
}

}  // namespace sluice::cuda
