#include "engine/answers.h"

#include <algorithm>
#include <bit>

#include "sluice/check.h"

#include "engine/sampler.h"

namespace sluice {

std::vector<LogitsRow> wanted_logits(const StepPlan& plan, const BatchBuilder& builder) {
  std::vector<LogitsRow> rows;
  for (size_t i = 0; i < plan.work.size(); ++i) {
    const SequenceWork& work = plan.work[i];
    const int32_t outputs = BatchBuilder::num_outputs(work), first = builder.first_output(i);
    if (work.num_prompt_logprobs >= 0) {
      // The row of position p says what it thought of token p + 1, as long as that one is prompt, too.
      const int32_t count = std::min(work.end, work.num_prompt_tokens - 1) - work.begin;
      for (int32_t index = 0; index < count; ++index) rows.push_back({i, first + index, index});
    }
    if (!work.samples) continue;
    SLUICE_CHECK(outputs > 0 || !work.cached_hidden.empty(), "sequence {} draws from nothing", value(work.sequence));
    rows.push_back({i, outputs > 0 ? first + outputs - 1 : -1, -1});
  }
  return rows;
}

uint64_t hash_logits(uint64_t hash, std::span<const float> logits) {
  for (const float logit : logits) hash = (hash ^ std::bit_cast<uint32_t>(logit)) * 0x100000001b3;
  return hash;
}

namespace {

// What the work's constraint allows; false if that is nothing. Below min_tokens the end of a complete form is its only
// continuation: then `masked` gives way.
bool find_allowed(const SequenceWork& work, size_t vocab, std::vector<uint32_t>& words,
                  std::span<const TokenId>& masked) {
  words.resize((vocab + 31) / 32);
  if (!work.constraint->allowed(words)) return false;
  if (masked.empty()) return true;
  std::vector<uint32_t> rest = words;
  for (const TokenId token : masked) rest[static_cast<size_t>(token) / 32] &= ~(1u << (token % 32));
  if (std::ranges::all_of(rest, [](uint32_t word) { return word == 0; })) masked = {};
  return true;
}

}  // namespace

void answer_row(const SequenceWork& work, const LogitsRow& row, std::span<float> logits, WorkResult& result) {
  if (row.prompt_index >= 0) {
    const TokenId next = work.all_tokens[static_cast<size_t>(work.begin + row.prompt_index + 1)];
    result.prompt_logprobs.push_back(log_probabilities(logits, next, work.num_prompt_logprobs));
    return;
  }
  std::span<const TokenId> masked = work.masks_stop ? work.stop_ids : std::span<const TokenId>();
  std::vector<uint32_t> allowed;
  if (work.constraint && !find_allowed(work, logits.size(), allowed, masked)) return;
  // Logprobs are of the model's own distribution, so they come from the logits as they are before sample() changes
  // them.
  std::vector<float> raw;
  if (work.num_logprobs >= 0) raw.assign(logits.begin(), logits.end());
  const auto prompt_size = static_cast<size_t>(work.num_prompt_tokens);
  const TokenId token = sample(logits, {.params = work.sampling,
                                        .seed = work.seed,
                                        .prompt = work.all_tokens.first(prompt_size),
                                        .generated = work.all_tokens.subspan(prompt_size),
                                        .masked = masked,
                                        .allowed = allowed});
  result.token = token;
  if (work.num_logprobs < 0) return;
  std::vector<TokenLogprob> logprobs = log_probabilities(raw, token, work.num_logprobs);
  result.logprob = logprobs[0].logprob;
  result.top_logprobs.assign(logprobs.begin() + 1, logprobs.end());
}

}  // namespace sluice
