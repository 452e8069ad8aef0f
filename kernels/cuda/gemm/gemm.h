// Dense and grouped products y = x W^T on bf16 activations, sums in f32: parameters, weight layouts, plan, launchers.
//
// One skeleton (kernels/cuda/gemm_pipeline.cuh) serves all weight formats. It computes the transposed product: weights
// are the 16-row operand of mma.m16n8k16, tokens its 8 columns, so that a decode step wastes at most 7 rows.
//
// Weights W [n, k] are shuffled once, at loading, into the order in which a warp's lanes take them as operand A:
//
//   strip of 16 outputs | step of 64 inputs | lane | the lane's part of the 4 mma of the step
//
//   INT4  16 bytes: word b serves k16 block b; element low of A word j is nibble j, element high nibble j + 4; code + 8
//   FP8   32 bytes, 16 for each two k16 blocks, 2 words a block: A words 2i, 2i + 1 in word i, elements low of both,
//   then
//         elements high of both
//   BF16  64 bytes, 16 for each k16 block: the A words
//
// so that whole 16-byte vectors arrive as operands but for a mask and an fma. Scales: INT4 [k / group, n] f16; FP8
// [n / 128 rounded up, k / 128] f32, one for a block of 128 x 128 weights.
#pragma once

#include <cstdint>

#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/types.h"

namespace sluice::cuda {

constexpr int kGemmBlockN = 128;  // outputs of a block: 4 warps x 2 strips
constexpr int kGemmStep = 64;     // inputs of a pipeline step

// What is computed. Dense: tiles is null, rows [0, rows). Grouped: expert e has the e-th matrix; places of tiles. By
// heads: every token has `heads` rows side by side, token t's rows t * heads + h of x and of y, and head h has the h-th
// matrix; rows counts tokens, and inputs are not split.
struct GemmParams {
  const bf16* x = nullptr;              // [*, x_stride], the first x_cols of each row; 16-byte aligned rows
  const int32_t* row_ids = nullptr;     // [rows] place -> row of x, or null for the same
  const void* weights = nullptr;        // [experts] matrices, one after the other
  const f16* scales = nullptr;          // INT4: [experts, k / group, n]
  const float* block_scales = nullptr;  // FP8: [experts, ceil(n / 128), k / 128]
  bf16* y = nullptr;                    // [rows, y_stride], the first n of each row
  float* y_f32 = nullptr;               // instead of y: router scores and logits, which are compared with each other
  int32_t rows = 0, n = 0, k = 0;
  int32_t x_cols = 0;  // inputs that rows of x have, the weights beyond are padding; a multiple of 8; 0: k
  int32_t heads = 0;   // 0: not by heads
  int32_t group = 0;  // INT4: 32, 64 or 128; FP8: 128; BF16: 0
  int32_t x_stride = 0, y_stride = 0;
  const ExpertTile* tiles = nullptr;   // cut to the config's tile_rows
  const int32_t* num_tiles = nullptr;  // [1] of device memory
  int32_t max_tiles = 0;               // blocks beyond *num_tiles return at once
  float* workspace = nullptr;          // [workspace_values()] (plan.h), for splits > 1
  int32_t* counters = nullptr;         // [num_counters()] zeros before and after, for splits > 1
};

// How. choose_gemm_config (plan.h) is the pure function that chooses it.
struct GemmConfig {
  int32_t tile_rows = 16;  // tokens of a block: 8, 16, 32 or 64
  int32_t splits = 1;      // blocks that share the inputs of a tile
};

// k a multiple of the group and of 64, n of 16.
void int4_gemm(const GemmParams& params, const GemmConfig& config, Stream stream);
void fp8_gemm(const GemmParams& params, const GemmConfig& config, Stream stream);  // e4m3; NaN weights read as 480
void bf16_gemm(const GemmParams& params, const GemmConfig& config, Stream stream);

}  // namespace sluice::cuda
