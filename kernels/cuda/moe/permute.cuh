// A stable counting sort in one block of 16 warps. Each warp owns a contiguous part of the pairs, so that its places
// within an expert follow those of the warps before it:
//
//   count    counts[warp][expert]            one turn of 32 pairs: lanes of one expert find each other (match)
//   scan     places[warp][expert] = offset of the expert + counts of the warps before     a thread per expert
//   place    a pair's place = places[warp][expert] + lanes before it of the same expert
//
// One block, because 4096 tokens x 8 are only 64 turns a warp, cheaper than a second launch.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kPermuteWarps = kMaxExperts / kWarp;  // a thread per expert

struct PermuteShared {
  int32_t counts[kPermuteWarps][kMaxExperts];  // then: the next place of the warp
  int32_t warp_sums[2][kPermuteWarps];
};

// Exclusive sums over the block's threads of two values at once; returns through them, the totals in `totals`.
__device__ __forceinline__ void exclusive_sums(int32_t (&values)[2], int32_t (&totals)[2], PermuteShared& shared) {
  int32_t inclusive[2];
  for (int i = 0; i < 2; ++i) {
    inclusive[i] = warp_inclusive_sum(values[i]);
    if (lane_id() == kWarp - 1) shared.warp_sums[i][warp_id()] = inclusive[i];
  }
  __syncthreads();
  for (int i = 0; i < 2; ++i) {
    values[i] = inclusive[i] - values[i];
    totals[i] = 0;
    for (int warp = 0; warp < kPermuteWarps; ++warp) {
      if (warp < warp_id()) values[i] += shared.warp_sums[i][warp];
      totals[i] += shared.warp_sums[i][warp];
    }
  }
}

// Walks the warp's pairs in order, counting them into `counts`; visit(pair, what its expert's count was before it).
template <typename Visit>
__device__ __forceinline__ void count_pairs(const PermuteParams& params, int32_t* counts, Visit&& visit) {
  const uint32_t lanes_before = (1u << lane_id()) - 1;
  const int32_t pairs = params.rows * params.top_k;
  const auto turns = static_cast<int32_t>(ceil_div(pairs, kPermuteWarps * kWarp));  // of every warp
  for (int32_t turn = 0; turn < turns; ++turn) {
    const int32_t pair = (warp_id() * turns + turn) * kWarp + lane_id();
    const int32_t expert = pair < pairs ? params.experts[pair] : -1;
    const uint32_t mates = match_any(static_cast<uint32_t>(expert));
    const int32_t before = expert >= 0 ? counts[expert] : 0;
    warp_sync();  // all have read what the turns before counted
    if (expert >= 0 && (mates & lanes_before) == 0) counts[expert] = before + count_bits(mates);
    warp_sync();
    if (expert >= 0) visit(pair, before + count_bits(mates & lanes_before));
  }
}

__global__ void __launch_bounds__(kMaxExperts) permute_kernel(const PermuteParams params) {
  auto& shared = static_shared<PermuteShared>();
  const auto expert_idx = static_cast<int>(threadIdx.x);  // of the scan
  int32_t* counts = shared.counts[warp_id()];

  for (int warp = 0; warp < kPermuteWarps; ++warp) shared.counts[warp][expert_idx] = 0;
  __syncthreads();
  count_pairs(params, counts, [](int32_t, int32_t) {});
  __syncthreads();

  int32_t count = 0;
  for (int warp = 0; warp < kPermuteWarps; ++warp) count += shared.counts[warp][expert_idx];
  int32_t begins[2] = {count, static_cast<int32_t>(ceil_div(count, params.tile_rows))};  // place, tile
  int32_t totals[2];
  exclusive_sums(begins, totals, shared);
  int32_t next = begins[0];
  for (int warp = 0; warp < kPermuteWarps; ++warp) {
    const int32_t of_warp = shared.counts[warp][expert_idx];
    shared.counts[warp][expert_idx] = next;
    next += of_warp;
  }
  if (expert_idx < params.num_experts) params.offsets[expert_idx] = begins[0];
  if (expert_idx == 0) {
    params.offsets[params.num_experts] = totals[0];
    *params.num_tiles = totals[1];
  }
  for (int32_t row = 0, tile = begins[1]; row < count; row += params.tile_rows, ++tile) {
    const int32_t end = row + params.tile_rows < count ? row + params.tile_rows : count;
    params.tiles[tile] = {expert_idx, begins[0] + row, begins[0] + end};
  }
  __syncthreads();

  count_pairs(params, counts, [&](int32_t pair, int32_t place) {
    params.row_ids[place] = pair / params.top_k;
    params.places[pair] = place;
  });
}

void permute(const PermuteParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.num_experts > 0 && params.num_experts <= kMaxExperts, params.num_experts);
  SLUICE_PRECONDITION(params.top_k > 0 && params.tile_rows > 0, params.top_k, params.tile_rows);
  launch(permute_kernel, dim3(1), dim3(kMaxExperts), 0, stream, params);
}

}  // namespace sluice::cuda
