// The skeleton of the products: 4 warps, a block of 128 outputs x kTokens tokens, steps of 64 inputs through a ring of
// stages filled by cp.async.
//
//   tokens      x tile [kTokens, 64] in shared memory, rows 144 bytes apart: ldmatrix meets 8 different banks
//   weights     each warp streams its own 2 strips of 16 outputs; nobody else reads them
//   sums        a group's products in one set of accumulators; at the group's end acc = fma(scale, group sum, acc),
//   groups
//               ascending: weights enter the matrix unit as exact integers, the scale is applied once per group
//   splits      a block's share of the inputs is [begin, end) groups; partial sums go to the workspace, and the block
//   that
//               comes last (a counter) adds all of them in ascending order: nobody waits, and the order is always the
//               same
//
// Format is what differs between weights:
//   kGroup                     inputs that share a scale (0: unscaled)
//   kStages                    of the ring; a guess until it is timed on a GPU, but 64 tokens fit the 99 KB of sm_89
//   kVectors                   16-byte vectors of a lane, strip and step; load_strips copies them
//   Stage                      its part of a pipeline stage
//   load(stage, problem, step) issues the copies of one step
//   Step(stage)                what a warp holds in registers during a step; fragment(strip, block, a), scale(...)
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/plan.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kGemmThreads = 128;
constexpr int kWarpStrips = 2;                                    // strips of 16 outputs of a warp
constexpr int kBlockStrips = kGemmThreads / kWarp * kWarpStrips;  // 8
constexpr int kTokenStride = kGemmStep + kVecBf16;                // values from token to token of a stage
constexpr int kOutStride = kGemmBlockN + 4;  // floats from token to token: a warp's stores meet 32 banks

template <typename Format, int kTokens>
struct GemmShared {
  struct Stage {
    alignas(16) typename Format::Stage weights;
    alignas(16) bf16 x[kTokens][kTokenStride];
  };
  union {
    Stage stages[Format::kStages];
    alignas(16) float out[kTokens][kOutStride];  // after the last step
  };
  int32_t rows[kTokens];  // of x, or -1
  int32_t arrived_before;
};

// Where a block works.
struct GemmBlock {
  int32_t expert, n_begin;
  int32_t begin, end;            // places
  int32_t step_begin, step_end;  // of 64 inputs
};

template <int kTokens>
__device__ __forceinline__ GemmBlock locate(const GemmParams& params, const GemmConfig& config) {
  GemmBlock block;
  block.n_begin = static_cast<int32_t>(blockIdx.x) * kGemmBlockN;
  const auto tile = static_cast<int32_t>(blockIdx.y);
  if (params.tiles) {
    const ExpertTile found = params.tiles[tile];
    block.expert = found.expert;
    block.begin = found.begin;
    block.end = found.end;
  } else {
    block.expert = params.heads > 0 ? static_cast<int32_t>(blockIdx.z) : 0;
    block.begin = tile * kTokens;
    block.end = block.begin + kTokens < params.rows ? block.begin + kTokens : params.rows;
  }
  // Splits end between groups, and between steps.
  const int32_t unit = params.group > kGemmStep ? params.group : kGemmStep;
  const int32_t units = params.k / unit, steps_per_unit = unit / kGemmStep;
  const auto split = params.heads > 0 ? 0 : static_cast<int32_t>(blockIdx.z);
  block.step_begin = units * split / config.splits * steps_per_unit;
  block.step_end = units * (split + 1) / config.splits * steps_per_unit;
  return block;
}

// The tokens' part of a stage.
template <int kTokens>
__device__ __forceinline__ void load_tokens(bf16 (&x)[kTokens][kTokenStride], const GemmParams& params,
                                            const int32_t (&rows)[kTokens], int32_t step) {
  constexpr int kVectors = kGemmStep / kVecBf16;  // of a token
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kVectors; i += kGemmThreads) {
    const int token = i / kVectors, column = i % kVectors * kVecBf16;
    const int32_t row = rows[token];
    const bool valid = row >= 0 && step * kGemmStep + column < params.x_cols;
    const int64_t source = valid ? static_cast<int64_t>(row) * params.x_stride + step * kGemmStep + column : 0;
    cp_async_16(&x[token][column], params.x + source, valid);
  }
}

// The weights' part of a stage: of each strip of the block, kVectors * 32 consecutive vectors.
template <int kVectors>
__device__ __forceinline__ void load_strips(Vec16 (&target)[kBlockStrips][kVectors][kWarp], const GemmParams& params,
                                            const GemmBlock& block, int32_t step) {
  const int64_t strip_vectors = static_cast<int64_t>(params.k / kGemmStep) * (kVectors * kWarp);
  const auto* experts_weights =
      static_cast<const Vec16*>(params.weights) + block.expert * (params.n / 16) * strip_vectors;
#pragma unroll
  for (int i = 0; i < kBlockStrips * kVectors * kWarp / kGemmThreads; ++i) {
    const int vector = i * (kGemmThreads / kWarp) + warp_id();  // of all strips'
    const int strip = vector / kVectors, part = vector % kVectors;
    const int32_t of_matrix = block.n_begin / 16 + strip;
    const bool valid = of_matrix * 16 < params.n;
    const int64_t source = (valid ? of_matrix : 0) * strip_vectors + (step * kVectors + part) * kWarp + lane_id();
    cp_async_16(&target[strip][part][lane_id()], experts_weights + source, valid);
  }
}

// Operand B of two k16 blocks (32 inputs) for all tokens: b[block][8 tokens][word].
template <int kTokens>
__device__ __forceinline__ void token_fragments(const bf16 (&x)[kTokens][kTokenStride], int half,
                                                uint32_t (&b)[2][kTokens / 8][2]) {
  const int matrix = lane_id() / 8, row = lane_id() % 8;
  if constexpr (kTokens == 8) {  // the four matrices are 8 inputs each
    uint32_t words[4];
    ldmatrix_x4(words, &x[row][half * 32 + matrix * 8]);
#pragma unroll
    for (int i = 0; i < 4; ++i) b[i / 2][0][i % 2] = words[i];
  } else {  // two of 8 inputs for each of two 8 tokens
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int pair = 0; pair < kTokens / 16; ++pair) {
        uint32_t words[4];
        ldmatrix_x4(words, &x[pair * 16 + matrix / 2 * 8 + row][half * 32 + block * 16 + matrix % 2 * 8]);
#pragma unroll
        for (int i = 0; i < 4; ++i) b[block][pair * 2 + i / 2][i % 2] = words[i];
      }
    }
  }
}

template <int kTokens>
struct Accumulators {
  float values[kWarpStrips][kTokens / 8][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int strip = 0; strip < kWarpStrips; ++strip)
#pragma unroll
      for (int t = 0; t < kTokens / 8; ++t)
#pragma unroll
        for (int i = 0; i < 4; ++i) values[strip][t][i] = 0;
  }
};

// One step of a warp: products into `sums`.
template <typename Format, int kTokens>
__device__ __forceinline__ void multiply_step(const typename Format::Step& weights,
                                              const bf16 (&x)[kTokens][kTokenStride], int half,
                                              Accumulators<kTokens>& sums) {
  uint32_t b[2][kTokens / 8][2];
  token_fragments<kTokens>(x, half, b);
#pragma unroll
  for (int block = 0; block < 2; ++block) {
#pragma unroll
    for (int strip = 0; strip < kWarpStrips; ++strip) {
      uint32_t a[4];
      weights.fragment(strip, half * 2 + block, a);
#pragma unroll
      for (int t = 0; t < kTokens / 8; ++t) mma_m16n8k16_bf16(sums.values[strip][t], a, b[block][t]);
    }
  }
}

// acc = fma(scale, sums, acc), and sums start again.
template <typename Format, int kTokens>
__device__ __forceinline__ void close_group(const typename Format::Step& weights, int group_in_step,
                                            Accumulators<kTokens>& sums, Accumulators<kTokens>& acc) {
#pragma unroll
  for (int strip = 0; strip < kWarpStrips; ++strip) {
    const float scales[2] = {weights.scale(strip, 0, group_in_step), weights.scale(strip, 1, group_in_step)};
#pragma unroll
    for (int t = 0; t < kTokens / 8; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        acc.values[strip][t][i] = fma_f32(scales[i / 2], sums.values[strip][t][i], acc.values[strip][t][i]);
  }
  sums.clear();
}

// Adds the splits' partial sums of the block's tile in ascending order into shared.out. False for all blocks of the
// tile but the last to arrive.
template <typename Shared, int kTokens>
__device__ __forceinline__ bool gather_splits(const GemmParams& params, const GemmConfig& config, Shared& shared) {
  constexpr int kVectors = kTokens * kGemmBlockN / 4;  // of 4 floats
  const int64_t tile = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  float* partials = params.workspace + tile * config.splits * (kTokens * kGemmBlockN);
  const auto at = [&](int i) { return &shared.out[i / (kGemmBlockN / 4)][i % (kGemmBlockN / 4) * 4]; };
  float* mine = partials + static_cast<int64_t>(blockIdx.z) * (kTokens * kGemmBlockN);
  for (int i = static_cast<int>(threadIdx.x); i < kVectors; i += kGemmThreads) store16(mine + i * 4, load16(at(i)));
  thread_fence();
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.arrived_before = atomic_add(params.counters + tile, 1);
    if (shared.arrived_before == config.splits - 1) params.counters[tile] = 0;  // ready for the next launch
    thread_fence();
  }
  __syncthreads();
  if (shared.arrived_before != config.splits - 1) return false;
  for (int i = static_cast<int>(threadIdx.x); i < kVectors; i += kGemmThreads) {
    float sums[4] = {};
    for (int split = 0; split < config.splits; ++split) {
      const float* part = partials + static_cast<int64_t>(split) * (kTokens * kGemmBlockN) + i * 4;
      const Vec16 values = load16_fresh(part);
#pragma unroll
      for (int w = 0; w < 4; ++w) sums[w] += bits_to_f32(values.words[w]);
    }
    for (int w = 0; w < 4; ++w) at(i)[w] = sums[w];
  }
  __syncthreads();
  return true;
}

template <typename Format, int kTokens>
__global__ void __launch_bounds__(kGemmThreads) gemm_kernel(const GemmParams params, const GemmConfig config) {
  using Shared = GemmShared<Format, kTokens>;
  auto& shared = dynamic_shared<Shared>();
  if (params.tiles && static_cast<int32_t>(blockIdx.y) >= *params.num_tiles) return;
  const GemmBlock block = locate<kTokens>(params, config);
  const int lane = lane_id(), warp = warp_id();

  for (int token = static_cast<int>(threadIdx.x); token < kTokens; token += kGemmThreads) {
    const int32_t place = block.begin + token;
    shared.rows[token] = place >= block.end  ? -1
                         : params.heads > 0 ? place * params.heads + block.expert
                         : params.row_ids   ? params.row_ids[place]
                                            : place;
  }
  __syncthreads();

  constexpr int kStages = Format::kStages;
  const auto load = [&](int32_t step) {
    if (step < block.step_end) {
      auto& stage = shared.stages[(step - block.step_begin) % kStages];
      Format::load(stage.weights, params, block, step);
      load_tokens<kTokens>(stage.x, params, shared.rows, step);
    }
    cp_async_commit();
  };
  for (int i = 0; i < kStages - 1; ++i) load(block.step_begin + i);

  Accumulators<kTokens> acc, sums;
  acc.clear();
  sums.clear();
  for (int32_t step = block.step_begin; step < block.step_end; ++step) {
    cp_async_wait<kStages - 2>();
    __syncthreads();  // the step's data is there for all, and nobody reads the stage that is filled next
    load(step + kStages - 1);
    const auto& stage = shared.stages[(step - block.step_begin) % kStages];
    const typename Format::Step weights(stage.weights);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      multiply_step<Format, kTokens>(weights, stage.x, half, Format::kGroup == 0 ? acc : sums);
      if constexpr (Format::kGroup == 32) close_group<Format, kTokens>(weights, half, sums, acc);
    }
    if constexpr (Format::kGroup == 64) close_group<Format, kTokens>(weights, 0, sums, acc);
    if constexpr (Format::kGroup == 128)
      if (step % 2 == 1) close_group<Format, kTokens>(weights, 0, sums, acc);
  }
  cp_async_wait<0>();
  __syncthreads();

#pragma unroll
  for (int strip = 0; strip < kWarpStrips; ++strip)
#pragma unroll
    for (int t = 0; t < kTokens / 8; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        shared.out[t * 8 + lane % 4 * 2 + i % 2][(warp * kWarpStrips + strip) * 16 + lane / 4 + i / 2 * 8] =
            acc.values[strip][t][i];
  __syncthreads();
  if (config.splits > 1 && !gather_splits<Shared, kTokens>(params, config, shared)) return;

  constexpr int kVectors = kGemmBlockN / kVecBf16;  // of a token
#pragma unroll 1  // unrolled, its addresses cost registers that the sums above need: nvcc 13 spilled some
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kVectors; i += kGemmThreads) {
    const int token = i / kVectors, column = i % kVectors * kVecBf16;
    if (block.begin + token >= block.end || block.n_begin + column >= params.n) continue;
    const float* values = &shared.out[token][column];
    const int32_t row = params.heads > 0 ? shared.rows[token] : block.begin + token;
    const int64_t target = static_cast<int64_t>(row) * params.y_stride + block.n_begin + column;
    if (params.y_f32) {
      store16(params.y_f32 + target, load16(values));
      store16(params.y_f32 + target + 4, load16(values + 4));
      continue;
    }
    Vec16 y;
#pragma unroll
    for (int w = 0; w < 4; ++w) y.words[w] = pack_bf16(values[2 * w], values[2 * w + 1]);
    store16(params.y + target, y);
  }
}

template <typename Format, int kTokens>
void launch_gemm(const GemmParams& params, const GemmConfig& config, Stream stream) {
  static_assert(sizeof(GemmShared<Format, kTokens>) <= 99 * 1024, "the most that a block of sm_89 can have");
  const auto blocks_n = static_cast<unsigned>(ceil_div(params.n, kGemmBlockN));
  const auto tiles = static_cast<unsigned>(launched_tiles(params, config));
  const auto layers = static_cast<unsigned>(params.heads > 0 ? params.heads : config.splits);
  GemmParams filled = params;
  if (filled.x_cols == 0) filled.x_cols = filled.k;
  launch(gemm_kernel<Format, kTokens>, dim3(blocks_n, tiles, layers), dim3(kGemmThreads),
         sizeof(GemmShared<Format, kTokens>), stream, filled, config);
}

// What all formats need; then the number of tokens becomes a constant.
template <typename Format>
void dispatch_gemm(const GemmParams& params, const GemmConfig& config, Stream stream) {
  const int32_t unit = params.group > kGemmStep ? params.group : kGemmStep;
  SLUICE_PRECONDITION(params.n > 0 && params.n % 16 == 0 && params.k > 0 && params.k % unit == 0, params.n, params.k,
                      unit);
  SLUICE_PRECONDITION(params.x_stride % kVecBf16 == 0 && params.y_stride % kVecBf16 == 0, params.x_stride,
                      params.y_stride);
  SLUICE_PRECONDITION(params.heads == 0 || (!params.tiles && config.splits == 1), params.heads, config.splits);
  SLUICE_PRECONDITION(config.splits >= 1 && config.splits <= params.k / unit, config.splits, params.k / unit);
  SLUICE_PRECONDITION(config.splits == 1 || (params.workspace && params.counters), config.splits);
  SLUICE_PRECONDITION(!params.tiles || params.num_tiles, params.max_tiles);
  SLUICE_PRECONDITION(params.x_cols % kVecBf16 == 0 && params.x_cols <= params.k, params.x_cols, params.k);
  switch (config.tile_rows) {
    case 8:
      return launch_gemm<Format, 8>(params, config, stream);
    case 16:
      return launch_gemm<Format, 16>(params, config, stream);
    case 32:
      return launch_gemm<Format, 32>(params, config, stream);
    case 64:
      return launch_gemm<Format, 64>(params, config, stream);
    default:
      SLUICE_PRECONDITION(!"tile_rows is one of 8, 16, 32, 64", config.tile_rows);
  }
}

}  // namespace sluice::cuda
