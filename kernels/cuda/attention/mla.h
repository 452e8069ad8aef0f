// Multi-head latent attention of generated tokens over the paged latent cache, absorbed form (arXiv:2405.04434, 2.1):
// all heads attend over the latents themselves. Up to 8 query tokens a sequence (speculation is verified so).
//
//   rows of a sequence   (query token, head), head fastest: contiguous in q and out
//   visible              query j of m in a sequence of length L sees positions [0, L - m + j + 1)
//   splits               positions [i, i + 1) * split_pages * 64, absolute: a row's bits do not depend on its
//   neighbours
#pragma once

#include <cstdint>

#include "sluice/kv_layout.h"

#include "kernels/cuda/types.h"

namespace sluice::cuda {

struct MlaDecodeParams {
  const bf16* q = nullptr;               // [tokens, heads, latent + rope]: K_h^T q_nope, then the rotated rope part
  const bf16* cache = nullptr;           // one layer's slice: pages of 64 entries of latent + rope values
  int64_t page_stride = 0;               // values from page to page
  const int32_t* pages = nullptr;        // [sequences, max_pages]
  const int32_t* lengths = nullptr;      // [sequences] cached positions, the query tokens' own included
  const int32_t* query_begin = nullptr;  // [sequences + 1] tokens of each
  bf16* out = nullptr;                   // [tokens, heads, latent]: the mixed latents
  float* partial = nullptr;              // [tokens * heads, max_splits(), latent]
  float* partial_lse = nullptr;          // [tokens * heads, max_splits()] log2 of the sum of exp2, scaled scores
  int32_t sequences = 0, heads = 0, latent = 0, rope = 0;
  int32_t max_pages = 0;    // a sequence's at most: the grid's size, so that a captured graph serves all lengths
  int32_t max_queries = 1;  // of a sequence at most
  float scale = 0;          // of the scores
};

// The same of tokens that attend to listed positions alone, whatever their role: those that an indexer chose (unit 1),
// or whole pages (unit 64). Places of a list that are attended are [0, lengths[token]), in positions: a token of
// position t whose list of n pages ends with its own has (n - 1) * 64 + t % 64 + 1.
struct MlaSparseParams {
  const bf16* q = nullptr;      // [tokens, heads, latent + rope]
  const bf16* cache = nullptr;  // as above
  int64_t page_stride = 0;
  const int32_t* pages = nullptr;           // [*, max_pages]
  const int32_t* token_sequence = nullptr;  // [tokens] row of pages
  const int32_t* list = nullptr;            // [tokens, max_list] positions, or places in the row of pages
  const int32_t* lengths = nullptr;         // [tokens]
  bf16* out = nullptr;                      // [tokens, heads, latent]
  float* partial = nullptr;                 // [tokens * heads, max_splits(), latent]
  float* partial_lse = nullptr;             // [tokens * heads, max_splits()]
  int32_t tokens = 0, heads = 0, latent = 0, rope = 0;
  int32_t max_pages = 0, max_list = 0, unit = 1;
  float scale = 0;
};

struct MlaConfig {
  // 16-row tiles of a block, 1 or 2, that share each latent read from memory. 2 need 115 KB of shared memory at latent
  // 512, which sm_80 and sm_90 have and sm_89 has not. 4 were tried: 512 threads leave 128 registers each, and spill on
  // sm_80.
  int32_t row_tiles = 1;
  // 512 positions: writing and reading a row's partial latents in f32 costs 11 % of reading the entries at 16 heads,
  // and a batch of 64 sequences of 4096 positions still makes 512 blocks.
  int32_t split_pages = 8;
};

inline MlaConfig choose_mla_config(int32_t heads, int32_t max_queries, int32_t shared_bytes_of_block) {
  MlaConfig config;
  if (heads * max_queries > 16 && shared_bytes_of_block >= 115 * 1024) config.row_tiles = 2;
  return config;
}

inline int32_t max_splits(const MlaDecodeParams& params, const MlaConfig& config) {
  return (params.max_pages + config.split_pages - 1) / config.split_pages;
}
inline int32_t max_splits(const MlaSparseParams& params, const MlaConfig& config) {
  const int32_t positions = config.split_pages * kPageTokens;
  return (params.max_list * params.unit + positions - 1) / positions;
}

// Two launches each. (latent, rope): (64, 16), (256, 32), (512, 64).
void mla_decode(const MlaDecodeParams& params, const MlaConfig& config, Stream stream);
void mla_sparse(const MlaSparseParams& params, const MlaConfig& config, Stream stream);

}  // namespace sluice::cuda
