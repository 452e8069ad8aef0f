// A warp per row. Lane l holds experts l, l + 32, l + 64, ... in registers; a choice is two warp-wide maxima: of the
// score, then of the inverted id among those that have it, which gives ties to the lower id.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kRouteWarps = 4;

// Choice scores by expert, for the group scores; only where groups are limited.
struct RouteShared {
  float choice[kRouteWarps][kMaxExperts];
};

// Keys order as their floats do. Above every open float, even NaN: a broken row still yields valid ids.
constexpr uint32_t kTakenKey = 0;   // chosen already, or no expert
constexpr uint32_t kClosedKey = 1;  // in a group that is not among the best
constexpr uint32_t kLowestKey = 2;

__device__ __forceinline__ uint32_t key_of(float value) {
  const uint32_t bits = f32_to_bits(value);
  const uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return key < kLowestKey ? kLowestKey : key;
}

// Scores of the row in f32, as the models were trained. Experts beyond the last have no score.
template <int kPerLane>
__device__ __forceinline__ void score_row(const RouteParams& params, const float* logits, float (&scores)[kPerLane]) {
  const int lane = lane_id();
  float peak = -INFINITY;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + i * kWarp;
    scores[i] = expert < params.num_experts ? logits[expert] : -INFINITY;
    peak = max_f32(peak, scores[i]);
  }
  if (params.scoring == ScoringFunc::kSigmoid) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) scores[i] = 1.0f / (1.0f + exp_f32(-scores[i]));
    return;
  }
  if (params.scoring == ScoringFunc::kSqrtSoftplus) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const float z = scores[i];  // softplus by the half that does not overflow
      scores[i] = sqrt_f32(max_f32(z, 0) + log1p_f32(exp_f32(z < 0 ? z : -z)));
    }
    return;
  }
  peak = warp_max(peak);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) sum += scores[i] = exp_f32(scores[i] - peak);
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) scores[i] = scores[i] / sum;
}

// The best groups as bits. Lane g scores group g: its best expert (softmax), else its two best together.
__device__ __forceinline__ uint32_t open_groups(const RouteParams& params, const float* choice) {
  const int lane = lane_id();
  const int size = params.num_experts / params.num_groups;
  uint32_t key = kTakenKey;
  if (lane < params.num_groups) {
    float best = -INFINITY, second = -INFINITY;
    for (int i = 0; i < size; ++i) {
      // Each lane starts elsewhere, else groups of 32 would all read the same bank.
      const float value = choice[lane * size + (i + lane) % size];
      second = max_f32(second, value < best ? value : best);
      best = max_f32(best, value);
    }
    key = key_of(params.scoring != ScoringFunc::kSoftmax && size > 1 ? best + second : best);
  }
  uint32_t open = 0;
  for (int i = 0; i < params.top_groups; ++i) {
    const uint32_t peak = warp_max_u32(key);
    const int group = first_bit(ballot(key == peak));
    open |= 1u << group;
    if (lane == group) key = kTakenKey;
  }
  return open;
}

// What a row's slots get: lane l has slot l; `sum` over all slots, ascending, in every lane.
struct RowChoice {
  int32_t expert = 0;
  float score = 0, sum = 0;
};

// The best by bias, groups and ties.
template <int kPerLane>
__device__ __forceinline__ RowChoice choose_experts(const RouteParams& params, const float (&scores)[kPerLane],
                                                    float* shared_choice) {
  const int lane = lane_id();
  uint32_t keys[kPerLane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int expert = lane + i * kWarp;
    keys[i] = kTakenKey;
    if (expert >= params.num_experts) continue;
    const float choice = params.bias ? scores[i] + params.bias[expert] : scores[i];
    keys[i] = key_of(choice);
    if (params.num_groups > 1) shared_choice[expert] = choice;
  }
  if (params.num_groups > 1) {
    warp_sync();
    const uint32_t open = open_groups(params, shared_choice);
    const int size = params.num_experts / params.num_groups;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int expert = lane + i * kWarp;
      if (expert < params.num_experts && (open >> (expert / size) & 1) == 0) keys[i] = kClosedKey;
    }
  }

  RowChoice mine;
  for (int slot = 0; slot < params.top_k; ++slot) {
    uint32_t best = kTakenKey;
    int best_expert = lane;
    float best_score = 0;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (keys[i] <= best) continue;
      best = keys[i];
      best_expert = lane + i * kWarp;
      best_score = scores[i];
    }
    const uint32_t peak = warp_max_u32(best);
    const auto chosen = static_cast<int>(~warp_max_u32(best == peak ? ~static_cast<uint32_t>(best_expert) : 0));
    const float score = shuffle(best_score, chosen % kWarp);
#pragma unroll
    for (int i = 0; i < kPerLane; ++i)
      if (lane + i * kWarp == chosen) keys[i] = kTakenKey;
    if (lane == slot) {
      mine.expert = chosen;
      mine.score = score;
    }
    mine.sum += score;
  }
  return mine;
}

// Those of the token's row in the table, in its order.
template <int kPerLane>
__device__ __forceinline__ RowChoice look_up_experts(const RouteParams& params, const float (&scores)[kPerLane],
                                                     int64_t row) {
  const int lane = lane_id();
  RowChoice mine;
  if (lane < params.top_k) mine.expert = params.table[static_cast<int64_t>(params.tokens[row]) * params.top_k + lane];
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const float score = shuffle(scores[i], mine.expert % kWarp);
    if (mine.expert / kWarp == i) mine.score = score;
  }
  for (int slot = 0; slot < params.top_k; ++slot) mine.sum += shuffle(mine.score, slot);
  return mine;
}

template <int kPerLane>
__global__ void __launch_bounds__(kRouteWarps* kWarp) route_kernel(const RouteParams params) {
  auto& shared = static_shared<RouteShared>();
  const int lane = lane_id(), warp = warp_id();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRouteWarps + warp;
  if (row >= params.rows) return;

  float scores[kPerLane];
  score_row<kPerLane>(params, params.logits + row * params.num_experts, scores);
  const RowChoice mine =
      params.table ? look_up_experts(params, scores, row) : choose_experts(params, scores, shared.choice[warp]);
  if (lane >= params.top_k) return;
  params.experts[row * params.top_k + lane] = mine.expert;
  params.weights[row * params.top_k + lane] =
      (params.normalize ? mine.score / (mine.sum + 1e-20f) : mine.score) * params.scale;
}

void route(const RouteParams& params, Stream stream) {
  SLUICE_PRECONDITION(!params.table || params.tokens, params.rows);
  SLUICE_PRECONDITION(params.num_experts > 0 && params.num_experts <= kMaxExperts, params.num_experts);
  SLUICE_PRECONDITION(params.num_groups > 0 && params.num_groups <= kMaxGroups, params.num_groups);
  SLUICE_PRECONDITION(params.num_experts % params.num_groups == 0, params.num_experts, params.num_groups);
  SLUICE_PRECONDITION(params.top_groups > 0 && params.top_groups <= params.num_groups, params.top_groups,
                      params.num_groups);
  SLUICE_PRECONDITION(params.top_k > 0 && params.top_k <= kMaxTopK &&
                          params.top_k <= params.num_experts / params.num_groups * params.top_groups,
                      params.top_k);
  const auto per_lane = ceil_div(params.num_experts, kWarp);
  const auto kernel = per_lane <= 2 ? route_kernel<2> : per_lane <= 8 ? route_kernel<8> : route_kernel<16>;
  launch(kernel, dim3(static_cast<unsigned>(ceil_div(params.rows, kRouteWarps))), dim3(kRouteWarps * kWarp), 0, stream,
         params);
}

}  // namespace sluice::cuda
