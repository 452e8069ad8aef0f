// Routing on the device, from logits to sorted tokens in two launches, without a round trip to the host; and the way
// back. The formulas are those of the ops of the same name in sluice/ops.h.
#pragma once

#include <cstdint>

#include "sluice/scoring_func.h"

#include "kernels/cuda/types.h"

namespace sluice::cuda {

constexpr int kMaxExperts = 512;
constexpr int kMaxTopK = 32;    // a lane keeps each chosen expert
constexpr int kMaxGroups = 32;  // a lane scores each group

// Logits -> experts by falling choice score, ties to the lower id, and their weights.
struct RouteParams {
  const float* logits = nullptr;  // [rows, num_experts]
  const float* bias = nullptr;    // [num_experts] or null
  int32_t rows = 0, num_experts = 0, num_groups = 1, top_groups = 1, top_k = 0;
  ScoringFunc scoring = ScoringFunc::kSoftmax;
  const int32_t* table = nullptr;   // [vocab, top_k] of a hash-routed layer, or null: choose
  const int32_t* tokens = nullptr;  // [rows], with `table`
  bool normalize = false;           // divide by (sum of the chosen + 1e-20)
  float scale = 1;
  int32_t* experts = nullptr;  // [rows, top_k]
  float* weights = nullptr;    // [rows, top_k]
};
void route(const RouteParams& params, Stream stream);

// One tile of the grouped GEMM: sorted places [begin, end) of one expert, at most tile_rows of them.
struct ExpertTile {
  int32_t expert, begin, end;
};

// Sorts (row, slot) pairs by expert, stable, and cuts each expert's places into tiles, ascending.
struct PermuteParams {
  const int32_t* experts = nullptr;  // [rows, top_k]
  int32_t rows = 0, top_k = 0, num_experts = 0;
  int32_t tile_rows = 0;
  int32_t* offsets = nullptr;    // [num_experts + 1]
  int32_t* row_ids = nullptr;    // [rows * top_k] sorted place -> row
  int32_t* places = nullptr;     // [rows, top_k]  (row, slot) -> sorted place
  ExpertTile* tiles = nullptr;   // [max_tiles(...)], the first *num_tiles written
  int32_t* num_tiles = nullptr;  // [1]
};
// What a launch over tiles must provide for, however the tokens fall: every expert that has any may waste one tile.
constexpr int64_t max_tiles(int64_t pairs, int32_t num_experts, int32_t tile_rows) {
  return pairs / tile_rows + (pairs < num_experts ? pairs : num_experts);
}
void permute(const PermuteParams& params, Stream stream);

// x[i] += (sum over slots s, ascending, of weights[i, s] * y[places[i, s]]) + shared[i]; f32, one rounding at the end.
struct CombineParams {
  const bf16* y = nullptr;          // [rows * top_k, hidden] sorted by expert
  const int32_t* places = nullptr;  // [rows, top_k]
  const float* weights = nullptr;   // [rows, top_k]
  const bf16* shared = nullptr;     // [rows, hidden] or null
  bf16* x = nullptr;                // [rows, hidden]
  int32_t rows = 0, hidden = 0, top_k = 0;
};
void combine(const CombineParams& params, Stream stream);

}  // namespace sluice::cuda
