// Block attention for models without an indexer of their own: what each page is about, and the pages that a row attends
// to. The formulas are those of block_means and block_select in sluice/ops.h; lists go to mla_sparse (mla.h), unit 64.
#pragma once

#include <cstdint>

#include "sluice/kv_layout.h"

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// Means of the pages that a step completes: those whose last position is among the sequences' query tokens. Additions
// in f32, ascending, one rounding: the bits of the oracle.
struct BlockMeansParams {
  const bf16* cache = nullptr;           // one layer's slice: pages of 64 entries of `width` values
  int64_t page_stride = 0;               // values from page to page
  bf16* means = nullptr;                 // an entry of `width` values at each page's begin
  int64_t means_stride = 0;              // values from page to page
  const int32_t* pages = nullptr;        // [sequences, max_pages]
  const int32_t* lengths = nullptr;      // [sequences] cached positions, the query tokens' own included
  const int32_t* query_begin = nullptr;  // [sequences + 1] tokens of each
  int32_t sequences = 0, max_pages = 0, max_queries = 0, width = 0;
};
void block_means(const BlockMeansParams& params, Stream stream);

// A token whose sequence has no more pages than num_pages, its own included, gets all of them.
struct BlockSelectParams {
  const bf16* q = nullptr;                  // [tokens, heads, latent + rope]: K_h^T q_nope, then the rotated rope part
  const bf16* means = nullptr;              // as above, width latent + rope
  int64_t means_stride = 0;                 // values from page to page
  const int32_t* pages = nullptr;           // [*, max_pages]
  const int32_t* token_sequence = nullptr;  // [tokens] row of pages
  const int32_t* positions = nullptr;       // [tokens] the token's own
  float* mass = nullptr;                    // [tokens, max_pages], for the kernel's use
  int32_t* list = nullptr;                  // [tokens, num_pages] places in the row of pages, ascending
  int32_t* lengths = nullptr;               // [tokens] positions that the list covers up to the token's own
  int32_t tokens = 0, heads = 0, latent = 0, rope = 0;
  int32_t max_pages = 0;
  int32_t num_pages = 0, sink_pages = 0, window_pages = 1;  // sink_pages + window_pages <= num_pages
  float scale = 0;
};
// (latent, rope): (64, 16), (256, 32), (512, 64).
void block_select(const BlockSelectParams& params, Stream stream);

}  // namespace sluice::cuda
