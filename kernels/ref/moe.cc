// Routing, permutation, combination. The routing formulas are DeepSeek-V2's (arXiv:2405.04434, 2.2) and -V3's
// (arXiv:2412.19437, 2.1.2).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

// Indices of the `count` largest values, falling; ties go to the lower index.
std::vector<int32_t> top_indices(const std::vector<double>& values, int32_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

double softplus(double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))); }

// Scores in f32, as the models were trained.
std::vector<float> scores(const RouteArgs& args, const float* logits) {
  const auto count = static_cast<size_t>(args.num_experts);
  std::vector<float> result(count);
  if (args.scoring == ScoringFunc::kSigmoid) {
    for (size_t e = 0; e < count; ++e) result[e] = static_cast<float>(1 / (1 + std::exp(-double{logits[e]})));
    return result;
  }
  if (args.scoring == ScoringFunc::kSqrtSoftplus) {
    for (size_t e = 0; e < count; ++e) result[e] = static_cast<float>(std::sqrt(softplus(logits[e])));
    return result;
  }
  const double peak = *std::max_element(logits, logits + count);
  double sum = 0;
  for (size_t e = 0; e < count; ++e) sum += std::exp(logits[e] - peak);
  for (size_t e = 0; e < count; ++e) result[e] = static_cast<float>(std::exp(logits[e] - peak) / sum);
  return result;
}

// Choice scores outside the best groups become `closed`.
void limit_groups(const RouteArgs& args, std::vector<double>& choice, double closed) {
  const int32_t size = args.num_experts / args.num_groups;
  std::vector<double> group_scores;
  for (int32_t group = 0; group < args.num_groups; ++group) {
    std::vector<double> members(choice.begin() + group * size, choice.begin() + (group + 1) * size);
    std::sort(members.rbegin(), members.rend());
    group_scores.push_back(args.scoring != ScoringFunc::kSoftmax && size > 1 ? members[0] + members[1] : members[0]);
  }
  std::vector<bool> open(static_cast<size_t>(args.num_groups), false);
  for (int32_t group : top_indices(group_scores, args.top_groups)) open[static_cast<size_t>(group)] = true;
  for (int32_t e = 0; e < args.num_experts; ++e)
    if (!open[static_cast<size_t>(e / size)]) choice[static_cast<size_t>(e)] = closed;
}

std::vector<int32_t> choose(const RouteArgs& args, int64_t row, const std::vector<float>& s) {
  if (args.table) {
    const int32_t* ids = args.table + int64_t{args.tokens[row]} * args.top_k;
    return {ids, ids + args.top_k};
  }
  std::vector<double> choice(s.begin(), s.end());
  if (args.bias)
    for (size_t e = 0; e < choice.size(); ++e) choice[e] = s[e] + args.bias[e];  // f32 sum
  // V2 writes 0 into closed groups, V3 minus infinity; softmax scores are positive, so one rule serves both.
  if (args.num_groups > 1) limit_groups(args, choice, -std::numeric_limits<double>::infinity());
  return top_indices(choice, args.top_k);
}

}  // namespace

void route(const RouteArgs& args, OpContext&) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const std::vector<float> s = scores(args, args.logits + row * args.num_experts);
    const std::vector<int32_t> chosen = choose(args, row, s);
    double sum = 0;
    for (int32_t e : chosen) sum += s[static_cast<size_t>(e)];
    for (int32_t slot = 0; slot < args.top_k; ++slot) {
      const int32_t expert = chosen[static_cast<size_t>(slot)];
      const double weight =
          args.normalize ? s[static_cast<size_t>(expert)] / (sum + 1e-20) : s[static_cast<size_t>(expert)];
      args.experts[row * args.top_k + slot] = expert;
      args.weights[row * args.top_k + slot] = static_cast<float>(weight * args.scale);
    }
  }
}

void permute(const PermuteArgs& args, OpContext&) {
  const int64_t count = args.rows * args.top_k;
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return args.experts[a] < args.experts[b]; });
  std::fill(args.offsets, args.offsets + args.num_experts + 1, 0);
  for (int64_t i = 0; i < count; ++i) ++args.offsets[args.experts[i] + 1];
  for (int32_t e = 0; e < args.num_experts; ++e) args.offsets[e + 1] += args.offsets[e];
  for (int64_t place = 0; place < count; ++place) {
    const int32_t pair = order[static_cast<size_t>(place)];
    args.row_ids[place] = pair / args.top_k;
    args.places[pair] = static_cast<int32_t>(place);
  }
}

void combine(const CombineArgs& args, OpContext&) {
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t i = 0; i < args.hidden; ++i) {
      float sum = 0;
      for (int32_t slot = 0; slot < args.top_k; ++slot) {
        const int64_t pair = row * args.top_k + slot;
        sum = std::fma(args.weights[pair], args.y[args.places[pair] * args.hidden + i], sum);
      }
      if (args.shared) sum += args.shared[row * args.hidden + i];
      args.x[row * args.hidden + i] += sum;
    }
  }
}

}  // namespace sluice::ref
