// From one row of logits to one token. Pure functions: the draw is keyed by (seed, position), so the same request gives
// the same answer whatever else runs. Called by the executor on the loop thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "sluice/plan.h"
#include "sluice/request.h"

namespace sluice {

// Uniform in [0, 1), a pure function of its key.
double uniform_draw(uint64_t seed, uint64_t position);

struct SamplingInput {
  const SamplingParams* params = nullptr;
  uint64_t seed = 0;
  std::span<const TokenId> prompt;     // for repetition_penalty
  std::span<const TokenId> generated;  // for all penalties
  std::span<const TokenId> masked;     // must not be drawn (stop ids below min_tokens)
  std::span<const uint32_t> allowed;   // bit t % 32 of word t / 32: token t may be drawn; empty: all may
};

// Draws the token for position prompt.size() + generated.size(). `logits` [vocab] is scratch: modified in place.
// temperature 0 takes the largest logit; the lower id wins a tie.
TokenId sample(std::span<float> logits, const SamplingInput& input);

// Natural logs of softmax(logits): of `token` first, then of the `num_top` most likely, falling.
std::vector<TokenLogprob> log_probabilities(std::span<const float> logits, TokenId token, int32_t num_top);

}  // namespace sluice
