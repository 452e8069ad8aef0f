#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "sluice/check.h"

namespace sluice {

namespace {

struct Candidate {
  TokenId token;
  float logit;    // after penalties and temperature
  double weight;  // exp(logit - peak)
};

// Most likely first; the lower id wins a tie.
bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// exp(-40) = 4e-18: below half an ulp of a sum that holds exp(0), so leaving such tokens out changes no sum.
constexpr float kNegligible = -40.0f;

uint64_t mix(uint64_t x) {  // the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void apply_penalties(std::span<float> logits, const SamplingInput& input) {
  const SamplingParams& params = *input.params;
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  const bool counts_needed = params.presence_penalty != 0 || params.frequency_penalty != 0;
  if (params.repetition_penalty == 1.0f && !counts_needed) return;
  std::unordered_map<TokenId, int32_t> counts;  // 0: only in the prompt
  if (params.repetition_penalty != 1.0f)
    for (TokenId token : input.prompt) counts.try_emplace(token, 0);
  for (TokenId token : input.generated) ++counts[token];
  for (const auto& [token, count] : counts) {
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count > 0) logit -= params.presence_penalty + static_cast<float>(count) * params.frequency_penalty;
  }
}

void keep_allowed(std::span<float> logits, std::span<const uint32_t> allowed) {
  for (size_t token = 0; token < logits.size(); ++token)
    if ((allowed[token / 32] >> (token % 32) & 1) == 0) logits[token] = -std::numeric_limits<float>::infinity();
}

TokenId largest(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// All tokens that matter, unsorted, with their weights.
std::vector<Candidate> candidates(std::span<const float> logits, float temperature) {
  const float peak = logits[static_cast<size_t>(largest(logits))];
  std::vector<Candidate> result;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float scaled = (logits[i] - peak) / temperature;
    if (scaled > kNegligible)  // false for NaN
      result.push_back({static_cast<TokenId>(i), scaled, std::exp(static_cast<double>(scaled))});
  }
  return result;
}

// Keeps the fewest most likely candidates that hold `top_p` of the weight; sorts only as far as needed.
void keep_top_p(std::vector<Candidate>& all, double top_p) {
  double total = 0;
  for (const Candidate& candidate : all) total += candidate.weight;
  double held = 0;
  size_t sorted = 0;
  for (size_t count = 0; count < all.size(); ++count) {
    if (count == sorted) {
      const size_t next = std::min(all.size(), std::max<size_t>(64, sorted * 4));
      const auto from = all.begin() + static_cast<std::ptrdiff_t>(sorted);
      std::partial_sort(from, all.begin() + static_cast<std::ptrdiff_t>(next), all.end(), more_likely);
      sorted = next;
    }
    held += all[count].weight;
    if (held >= top_p * total) {
      all.resize(count + 1);
      return;
    }
  }
}

void cut(std::vector<Candidate>& all, const SamplingParams& params) {
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < all.size()) {
    std::nth_element(all.begin(), all.begin() + params.top_k - 1, all.end(), more_likely);
    all.resize(static_cast<size_t>(params.top_k));
  }
  if (params.top_p < 1.0f) keep_top_p(all, params.top_p);
  if (params.min_p > 0.0f) {
    // weight <= 1 and the most likely candidate has exactly 1.
    std::erase_if(all, [&](const Candidate& candidate) { return candidate.weight < params.min_p; });
  }
}

}  // namespace

double uniform_draw(uint64_t seed, uint64_t position) {
  const uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15) ^ (position * 0xd1342543de82ef95 + 1));
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

TokenId sample(std::span<float> logits, const SamplingInput& input) {
  const SamplingParams& params = *input.params;
  apply_penalties(logits, input);
  if (!input.allowed.empty()) keep_allowed(logits, input.allowed);
  for (TokenId token : input.masked) logits[static_cast<size_t>(token)] = -std::numeric_limits<float>::infinity();
  if (params.temperature == 0) return largest(logits);

  std::vector<Candidate> left = candidates(logits, params.temperature);
  cut(left, params);
  // nth_element leaves an order of its own; the draw walks in order of ids.
  std::sort(left.begin(), left.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  if (left.empty()) return largest(logits);  // logits that are no numbers: the caller sees them in the logprobs
  double total = 0;
  for (const Candidate& candidate : left) total += candidate.weight;
  double remaining = uniform_draw(input.seed, input.prompt.size() + input.generated.size()) * total;
  for (const Candidate& candidate : left) {
    remaining -= candidate.weight;
    if (remaining < 0) return candidate.token;
  }
  return left.back().token;
}

std::vector<TokenLogprob> log_probabilities(std::span<const float> logits, TokenId token, int32_t num_top) {
  const float peak = logits[static_cast<size_t>(largest(logits))];
  double sum = 0;
  for (float logit : logits)
    if (logit - peak > kNegligible) sum += std::exp(static_cast<double>(logit - peak));
  const double log_sum = std::log(sum);
  const auto entry = [&](TokenId id) {
    return TokenLogprob{id, static_cast<float>(logits[static_cast<size_t>(id)] - peak - log_sum)};
  };
  std::vector<TokenLogprob> result{entry(token)};
  if (num_top <= 0) return result;
  std::vector<TokenId> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<TokenId>(i);
  const auto count = std::min<size_t>(static_cast<size_t>(num_top), order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](TokenId a, TokenId b) {
                      const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  for (size_t i = 0; i < count; ++i) result.push_back(entry(order[i]));
  return result;
}

}  // namespace sluice
