// Multi-head latent attention of prompt tokens over the paged latent cache, expanded form (arXiv:2405.04434, 2.1): each
// head attends over its own keys K_h c and values V_h c, and over the rope keys that all heads share. Three steps:
//
//   gather_entries   pages -> entries [rows, latent + rope]
//   a product        entries -> keys_values [rows, heads, nope + v]; its weights are kv_b as checkpoints have it
//   mla_prefill      flash attention (arXiv:2205.14135, arXiv:2307.08691)
//
//   window    positions [window_begin, window_end) of every sequence: expanded keys are 2 * heads * (nope + v) bytes a
//             position (64 KB for V3), so that those of a long prefix are made, attended and overwritten piece by piece
//   rows      sequence s has rows [key_begin[s], + positions of it in the window), in order of position
//   carry     a row's running softmax and its unnormalised sums from window to window, in f32 as the registers held
//             them: where windows end does not show in a row's bits
//   visible   query j of m in a sequence of length L sees positions [0, L - m + j + 1)
#pragma once

#include <algorithm>
#include <cstdint>

#include "sluice/kv_layout.h"

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// entries[key_begin[s] + p - window_begin] = the entry of position p, for window_begin <= p < min(window_end, length).
struct GatherEntriesParams {
  const bf16* cache = nullptr;         // one layer's slice: pages of 64 entries of `width` values
  int64_t page_stride = 0;             // values from page to page
  const int32_t* pages = nullptr;      // [sequences, max_pages]
  const int32_t* lengths = nullptr;    // [sequences] cached positions
  const int32_t* key_begin = nullptr;  // [sequences]
  bf16* entries = nullptr;             // [*, width]
  int32_t sequences = 0, max_pages = 0, width = 0;
  int32_t window_begin = 0, window_end = 0;
};
void gather_entries(const GatherEntriesParams& params, Stream stream);

struct MlaPrefillParams {
  const bf16* q = nullptr;               // [tokens, heads, nope + rope], rope part rotated
  const bf16* entries = nullptr;         // [rows, latent + rope], of which the rope part is read
  const bf16* keys_values = nullptr;     // [rows, heads, nope + v]
  const int32_t* query_begin = nullptr;  // [sequences + 1] tokens of each
  const int32_t* lengths = nullptr;      // [sequences] cached positions, the query tokens' own included
  const int32_t* key_begin = nullptr;    // [sequences]
  bf16* out = nullptr;                   // [tokens, heads, v], written by the window that holds the sequence's end
  float* carry = nullptr;                // [tokens * heads, v + 8]; not used where one window holds all
  int32_t sequences = 0, heads = 0, latent = 0, rope = 0, nope = 0, v = 0;
  int32_t max_queries = 0;                   // of a sequence at most
  int32_t window_begin = 0, window_end = 0;  // multiples of 64; the windows of a step go up from 0
  float scale = 0;                           // of the scores, > 0
};
constexpr int32_t kPrefillCarry = 8;  // floats of a row besides its sums: peak and sum of four lanes

struct MlaPrefillConfig {
  int32_t query_tile = 128;  // tokens of a block, 64 or 128: 16 a warp
};

// Two of the 64-token blocks would read each key twice; below 64 tokens half a larger one would idle.
inline MlaPrefillConfig choose_prefill_config(int32_t max_queries) { return {max_queries <= 64 ? 64 : 128}; }

// Positions of a window for which entries and keys_values of all sequences stay within `bytes`; a multiple of 64.
inline int32_t choose_prefill_window(int64_t bytes, int32_t sequences, const MlaPrefillParams& shape) {
  const int64_t row_bytes = 2 * (int64_t{shape.heads} * (shape.nope + shape.v) + shape.latent + shape.rope);
  const int64_t pages = bytes / (row_bytes * kPageTokens * std::max(sequences, 1));
  return static_cast<int32_t>(std::clamp<int64_t>(pages, 1, (int64_t{1} << 24) / kPageTokens)) * kPageTokens;
}

// (latent, rope, nope, v): (64, 16, 32, 32), (256, 32, 64, 64), (512, 64, 128, 128).
void mla_prefill(const MlaPrefillParams& params, const MlaPrefillConfig& config, Stream stream);

}  // namespace sluice::cuda
