// DeepSeek-V4's attention over the paged cache: a window of positions, then compressed entries, all complete ones or
// those that the indexer chose (index_scores and index_select, lightning.h). The formula is that of WindowAttentionArgs
// in sluice/ops.h.
//
//   places of a token at position t   the window's [max(0, t - window + 1), t], then the entries, ascending
//   splits                            places [i, i + 1) * split_pages * 64
#pragma once

#include "kernels/cuda/attention/mla.h"

namespace sluice::cuda {

struct WindowAttentionParams {
  const bf16* q = nullptr;                  // [tokens, heads, dim], rotated
  const float* sinks = nullptr;             // [heads]
  const float* cos_sin = nullptr;           // [tokens, rope]
  const bf16* cache = nullptr;              // one layer's window: pages of 64 vectors of dim values
  const bf16* compressed = nullptr;         // one layer's entries; where each lies: CompressedCache in sluice/ops.h
  int64_t page_stride = 0;                  // values from page to page, of both
  const int32_t* pages = nullptr;           // [*, max_pages]
  const int32_t* token_sequence = nullptr;  // [tokens] row of pages
  const int32_t* positions = nullptr;       // [tokens]
  const int32_t* selected = nullptr;        // [tokens, max_selected] entries, ascending; null: all complete ones
  const int32_t* num_selected = nullptr;    // [tokens]
  bf16* out = nullptr;                      // [tokens, heads, dim]
  float* partial = nullptr;                 // [tokens * heads, max_splits(), dim]
  float* partial_lse = nullptr;             // [tokens * heads, max_splits()]
  int32_t tokens = 0, heads = 0, dim = 0, rope = 0;
  int32_t window = 0, ratio = 0;  // ratio 0: no entries; else a divisor of 64 or a multiple of it
  int32_t max_pages = 0, max_selected = 0;
  float scale = 0;
};

inline int32_t max_splits(const WindowAttentionParams& params, const MlaConfig& config) {
  const int32_t positions = params.max_pages * kPageTokens;
  const int32_t window = params.window < positions ? params.window : positions;
  const int32_t entries = params.ratio == 0 ? 0 : params.selected ? params.max_selected : positions / params.ratio;
  const int32_t of_split = config.split_pages * kPageTokens;
  return (window + entries + of_split - 1) / of_split;
}

// Two launches. dim 64, 128 or 512; rope a multiple of 8, dim at most.
void window_attention(const WindowAttentionParams& params, const MlaConfig& config, Stream stream);

}  // namespace sluice::cuda
