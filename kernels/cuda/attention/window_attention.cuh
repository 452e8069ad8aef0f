// Attention over a window and compressed entries, with sinks: tokens do not share entries, so each is a block's.
#include "kernels/cuda/attention/window_attention.h"
#include "kernels/cuda/mla_pass.cuh"

namespace sluice::cuda {

__device__ __forceinline__ int32_t window_places(const WindowAttentionParams& params, int32_t position) {
  return position + 1 < params.window ? position + 1 : params.window;
}

__device__ __forceinline__ void locate_queries(const WindowAttentionParams& params, MlaBlock& block) {
  block.first_token = static_cast<int32_t>(blockIdx.z);
  block.sequence = params.token_sequence[block.first_token];
  block.num_queries = 1;
  const int32_t position = params.positions[block.first_token];
  block.length = window_places(params, position);
  if (params.ratio != 0)
    block.length += params.selected ? params.num_selected[block.first_token] : (position + 1) / params.ratio;
}

// The vector at a place of the token's list.
template <int kWidth>
__device__ __forceinline__ const bf16* vector_at(const WindowAttentionParams& params, const MlaBlock& block,
                                                 int32_t place) {
  const int32_t* pages = params.pages + static_cast<int64_t>(block.sequence) * params.max_pages;
  const int32_t position = params.positions[block.first_token], in_window = window_places(params, position);
  if (place < in_window) {
    const int32_t at = position + 1 - in_window + place;
    return params.cache + pages[at / kPageTokens] * params.page_stride +
           static_cast<int64_t>(at % kPageTokens) * kWidth;
  }
  int32_t entry = place - in_window;
  if (params.selected) entry = params.selected[static_cast<int64_t>(block.first_token) * params.max_selected + entry];
  const int32_t last = params.ratio * (entry + 1) - 1;
  const int32_t slot = params.ratio <= kPageTokens ? last % kPageTokens / params.ratio : 0;
  return params.compressed + pages[last / kPageTokens] * params.page_stride + static_cast<int64_t>(slot) * kWidth;
}

// Places [place, place + 32): a few threads to a row, which finds its vector once.
template <int kWidth, int kStride>
__device__ __forceinline__ void load_entries(bf16 (&entries)[kTilePositions][kStride],
                                             const WindowAttentionParams& params, const MlaBlock& block,
                                             int32_t place) {
  const int threads_per_row = static_cast<int>(blockDim.x) / kTilePositions;
  const int row = static_cast<int>(threadIdx.x) / threads_per_row;
  const int first_column = static_cast<int>(threadIdx.x) % threads_per_row * kVecBf16;
  const bool valid = place + row < block.end;
  const bf16* vector = valid ? vector_at<kWidth>(params, block, place + row) : params.cache;
  for (int column = first_column; column < kWidth; column += threads_per_row * kVecBf16)
    cp_async_16(&entries[row][column], valid ? vector + column : params.cache, valid);
}

__device__ __forceinline__ float sink_of(const WindowAttentionParams& params, const MlaBlock& block) {
  return params.sinks[block.row_begin] * kLog2E;
}

// The last `rope` dims are turned back by the token's angles: pairs (2i, 2i + 1), of which 8 columns hold four.
__device__ __forceinline__ void finish_columns(const WindowAttentionParams& params, const MlaBlock& block, int column,
                                               float (&sums)[kVecBf16]) {
  const int first = column - (params.dim - params.rope);
  if (first < 0) return;
  const float* cosines = params.cos_sin + static_cast<int64_t>(block.first_token) * params.rope + first / 2;
  const float* sines = cosines + params.rope / 2;
#pragma unroll
  for (int i = 0; i < kVecBf16 / 2; ++i) {
    const float even = sums[2 * i], odd = sums[2 * i + 1];
    sums[2 * i] = even * cosines[i] + odd * sines[i];
    sums[2 * i + 1] = odd * cosines[i] - even * sines[i];
  }
}

void window_attention(const WindowAttentionParams& params, const MlaConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.heads >= 1 && params.window >= 1, params.heads, params.window);
  SLUICE_PRECONDITION(params.dim == 64 || params.dim == 128 || params.dim == 512, params.dim);
  SLUICE_PRECONDITION(params.rope % kVecBf16 == 0 && params.rope <= params.dim, params.rope, params.dim);
  SLUICE_PRECONDITION(params.page_stride % kVecBf16 == 0 && config.split_pages >= 1, params.page_stride,
                      config.split_pages);
  SLUICE_PRECONDITION(params.ratio == 0 || kPageTokens % params.ratio == 0 || params.ratio % kPageTokens == 0,
                      params.ratio);
  SLUICE_PRECONDITION(config.row_tiles == 1 || config.row_tiles == 2, config.row_tiles);
  if (params.dim == 64) {
    dispatch_row_tiles<64, 0>(params, config, params.tokens, params.heads, stream);
  } else if (params.dim == 128) {
    dispatch_row_tiles<128, 0>(params, config, params.tokens, params.heads, stream);
  } else {
    dispatch_row_tiles<512, 0>(params, config, params.tokens, params.heads, stream);
  }
  launch_combine(params, config, params.tokens, params.heads, params.dim, stream);
}

}  // namespace sluice::cuda
