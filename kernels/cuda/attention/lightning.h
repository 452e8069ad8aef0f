// The lightning indexer of DeepSeek-V3.2 and V4: its keys, the scores of every cached position (V4: of every complete
// entry of some positions), and the choice of the best. The formulas are those of index_write and index_select in
// sluice/ops.h. What it chooses goes to mla_sparse (mla.h) and window_attention (window_attention.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "sluice/kv_layout.h"
#include "sluice/rope_layout.h"

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// LayerNorm, rotation of dims [0, rope_dim), one rounding. Slots are as in LatentWriteParams.
struct IndexWriteParams {
  const bf16* z = nullptr;             // [rows, z_stride], head_dim of each
  const float* norm_weight = nullptr;  // [head_dim]
  const float* norm_bias = nullptr;    // [head_dim]
  const float* cos_sin = nullptr;      // [rows, rope_dim]
  const int64_t* slots = nullptr;      // [rows]
  bf16* cache = nullptr;               // one layer's slice; entries of head_dim values
  int64_t page_stride = 0;             // values from page to page
  int32_t rows = 0, z_stride = 0, head_dim = 0, rope_dim = 0;
  float eps = 0;
  RopeLayout layout = RopeLayout::kHalf;
};
constexpr int kMaxIndexDim = 256;
void index_write(const IndexWriteParams& params, Stream stream);

// scores[i - token_begin, s] = sum over heads h, ascending in blocks of 16, of weights[i, h] * max(0, q[i, h] . k_s),
// for entries s < (the token's position + 1) / ratio; tokens [token_begin, token_end) of the batch.
struct IndexScoresParams {
  const bf16* q = nullptr;         // [tokens, heads, head_dim], rotated as the keys are
  const float* weights = nullptr;  // [tokens, heads]
  const bf16* cache = nullptr;     // as IndexWriteParams
  int64_t page_stride = 0;
  const int32_t* pages = nullptr;        // [sequences, max_pages]
  const int32_t* lengths = nullptr;      // [sequences] cached positions, the query tokens' own included
  const int32_t* query_begin = nullptr;  // [sequences + 1] tokens of each
  float* scores = nullptr;               // [token_end - token_begin, score_stride]
  int64_t score_stride = 0;
  int32_t sequences = 0, heads = 0, head_dim = 0, max_pages = 0, max_queries = 0;
  int32_t token_begin = 0, token_end = 0;
  int32_t ratio = 1;  // positions that a key stands for, a divisor of 64: a page has 64 / ratio keys
};
constexpr int kMaxIndexHeads = 64;
// heads a multiple of 16; head_dim 32, 64 or 128.
void index_scores(const IndexScoresParams& params, Stream stream);

// The top_k positions of each row by falling score, the lower position on a tie, ascending; all, where there are no
// more.
struct IndexSelectParams {
  const float* scores = nullptr;  // [rows, score_stride]
  int64_t score_stride = 0;
  const int32_t* counts = nullptr;  // [rows] positions (or entries) that the row sees
  int32_t* list = nullptr;          // [rows, top_k]
  int32_t* lengths = nullptr;       // [rows] places of the list that are filled
  int32_t rows = 0, top_k = 0;
};
void index_select(const IndexSelectParams& params, Stream stream);

// Tokens whose scores fit `bytes`: a step's rows go through scores and choice in as many passes as that needs.
inline int32_t choose_index_rows(int64_t bytes, int32_t max_pages) {
  return static_cast<int32_t>(
      std::clamp<int64_t>(bytes / (int64_t{max_pages} * kPageTokens * int64_t{sizeof(float)}), 1, 1 << 20));
}

}  // namespace sluice::cuda
