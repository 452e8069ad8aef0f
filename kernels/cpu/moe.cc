// Routing, permutation, combination. Formulas and tie rules as in ref/moe.cc, stage by stage.
#include <algorithm>
#include <cstring>
#include <limits>

#include "sluice/check.h"

#include "kernels/cpu/backend.h"
#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

// Experts a router may have; the largest known model has 384.
constexpr int32_t kMaxExperts = 512;
constexpr int32_t kMaxGroups = 64;
constexpr float kClosed = -std::numeric_limits<float>::infinity();

// scores[num_experts], padded to whole lanes by the caller's buffer.
void score(const RouteArgs& args, const float* logits, float* scores) {
  const int32_t count = args.num_experts;
  const F32x16 one = broadcast(1.0f);
  float peak = kClosed;
  for (int32_t e = 0; e < count; ++e) peak = std::max(peak, logits[e]);
  F32x16 sum = zero();
  for (int32_t e = 0; e < count; e += kLanes) {
    const int32_t lanes = std::min(kLanes, count - e);
    const F32x16 z = load_first(logits + e, lanes);
    if (args.scoring == ScoringFunc::kSigmoid) {
      store_first(scores + e, one / (one + exp(zero() - z)), lanes);
    } else if (args.scoring == ScoringFunc::kSqrtSoftplus) {
      const F32x16 minus_z = zero() - z;
      store_first(scores + e, sqrt(max(zero(), z) + log1p_unit(exp(min(minus_z, z)))), lanes);
    } else {
      store_first(scores + e, exp(z - broadcast(peak)), lanes);
      sum = sum + load_first(scores + e, lanes);
    }
  }
  if (args.scoring != ScoringFunc::kSoftmax) return;
  const F32x16 total = broadcast(reduce_add(sum));
  for (int32_t e = 0; e < count; e += kLanes) {
    const int32_t lanes = std::min(kLanes, count - e);
    store_first(scores + e, load_first(scores + e, lanes) / total, lanes);
  }
}

// Index of the largest of values[count]; the lower index wins a tie.
int32_t best_of(const float* values, int32_t count) {
  int32_t best = 0;
  for (int32_t i = 1; i < count; ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

void limit_groups(const RouteArgs& args, float* choice) {
  const int32_t size = args.num_experts / args.num_groups;
  float group_scores[kMaxGroups];
  for (int32_t group = 0; group < args.num_groups; ++group) {
    float first = kClosed, second = kClosed;
    for (int32_t e = group * size; e < (group + 1) * size; ++e) {
      if (choice[e] > first) {
        second = first;
        first = choice[e];
      } else {
        second = std::max(second, choice[e]);
      }
    }
    group_scores[group] = args.scoring != ScoringFunc::kSoftmax && size > 1 ? first + second : first;
  }
  bool open[kMaxGroups] = {};
  for (int32_t i = 0; i < args.top_groups; ++i) {
    const int32_t group = best_of(group_scores, args.num_groups);
    open[group] = true;
    group_scores[group] = kClosed;
  }
  for (int32_t group = 0; group < args.num_groups; ++group)
    if (!open[group]) std::fill(choice + group * size, choice + (group + 1) * size, kClosed);
}

void choose(const RouteArgs& args, const float* scores, int32_t* experts) {
  alignas(64) float choice[kMaxExperts];
  for (int32_t e = 0; e < args.num_experts; ++e) choice[e] = args.bias ? scores[e] + args.bias[e] : scores[e];
  if (args.num_groups > 1) limit_groups(args, choice);
  for (int32_t slot = 0; slot < args.top_k; ++slot) {
    experts[slot] = best_of(choice, args.num_experts);
    choice[experts[slot]] = kClosed;
  }
}

void route_row(const RouteArgs& args, int64_t row) {
  alignas(64) float scores[kMaxExperts];
  score(args, args.logits + row * args.num_experts, scores);
  int32_t* experts = args.experts + row * args.top_k;
  float* weights = args.weights + row * args.top_k;
  if (args.table) {
    std::copy_n(args.table + int64_t{args.tokens[row]} * args.top_k, args.top_k, experts);
  } else {
    choose(args, scores, experts);
  }
  float sum = 0;
  for (int32_t slot = 0; slot < args.top_k; ++slot) {
    weights[slot] = scores[experts[slot]];
    sum += weights[slot];
  }
  for (int32_t slot = 0; slot < args.top_k; ++slot) {
    if (args.normalize) weights[slot] /= sum + 1e-20f;
    weights[slot] *= args.scale;
  }
}

}  // namespace

void route(const RouteArgs& args, OpContext& context) {
  SLUICE_CHECK(args.num_experts <= kMaxExperts && args.num_groups <= kMaxGroups && args.top_k <= args.num_experts,
               "experts={} groups={} top_k={}", args.num_experts, args.num_groups, args.top_k);
  context.team.parallel_for(args.rows, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) route_row(args, row);
  });
}

void permute(const PermuteArgs& args, OpContext&) {
  SLUICE_CHECK(args.num_experts <= kMaxExperts, "experts={}", args.num_experts);
  int32_t cursor[kMaxExperts] = {};
  const int64_t count = args.rows * args.top_k;
  for (int64_t i = 0; i < count; ++i) ++cursor[args.experts[i]];
  int32_t place = 0;
  for (int32_t e = 0; e < args.num_experts; ++e) {
    args.offsets[e] = place;
    place += cursor[e];
    cursor[e] = args.offsets[e];
  }
  args.offsets[args.num_experts] = place;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t target = cursor[args.experts[i]]++;
    args.row_ids[target] = static_cast<int32_t>(i / args.top_k);
    args.places[i] = target;
  }
}

void combine(const CombineArgs& args, OpContext& context) {
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / (args.hidden * (args.top_k + 2)));
  context.team.parallel_for(args.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t* places = args.places + row * args.top_k;
      const float* weights = args.weights + row * args.top_k;
      float* x = args.x + row * args.hidden;
      for (int64_t i = 0; i < args.hidden; i += kLanes) {
        const int64_t lanes = std::min<int64_t>(kLanes, args.hidden - i);
        F32x16 sum = zero();
        for (int32_t slot = 0; slot < args.top_k; ++slot)
          sum = fma(broadcast(weights[slot]), load_first(args.y + places[slot] * args.hidden + i, lanes), sum);
        if (args.shared) sum = sum + load_first(args.shared + row * args.hidden + i, lanes);
        store_first(x + i, load_first(x + i, lanes) + sum, lanes);
      }
    }
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
