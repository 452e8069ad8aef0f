#include "tests/support/fake_engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace sluice {

namespace {

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a ^ (b + 0x9E3779B97F4A7C15 + (a << 6) + (a >> 2));
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

// 64 bits as four floats that hold 16 bits each exactly.
std::vector<float> to_hidden(uint64_t value) {
  std::vector<float> hidden;
  for (int i = 0; i < 4; ++i) hidden.push_back(static_cast<float>((value >> (16 * i)) & 0xFFFF));
  return hidden;
}

uint64_t from_hidden(std::span<const float> hidden) {
  uint64_t value = 0;
  for (size_t i = 0; i < hidden.size(); ++i) value |= static_cast<uint64_t>(hidden[i]) << (16 * i);
  return value;
}

}  // namespace

FakeEngine::FakeEngine(FakeEngineOptions options)
    : options_(options), slots_(static_cast<size_t>(options.num_pages) * kPageTokens) {}

uint64_t FakeEngine::next_value(uint64_t before, TokenId token, TokenRole role) const {
  const uint64_t with_role = options_.roles_matter && role == TokenRole::kGenerated ? 1 : 0;
  return mix(before, static_cast<uint64_t>(token) * 2 + with_role);
}

TokenId FakeEngine::draw(uint64_t value, uint64_t seed, bool masks_stop, std::span<const TokenId> stop_ids) const {
  uint64_t x = mix(value, seed);
  for (;;) {
    const auto token = static_cast<TokenId>(x % static_cast<uint64_t>(options_.vocab_size));
    if (!masks_stop || std::ranges::find(stop_ids, token) == stop_ids.end()) return token;
    x = mix(x, 1);
  }
}

FakeEngine::Slot& FakeEngine::slot(std::span<const PageId> pages, int32_t position) {
  const auto page = static_cast<size_t>(value(pages[static_cast<size_t>(position / kPageTokens)]));
  return slots_[page * kPageTokens + static_cast<size_t>(position % kPageTokens)];
}

void FakeEngine::problem(std::string text) {
  if (problems_.size() < 10) problems_.push_back(std::move(text));
}

void FakeEngine::poison_free(const PagePool& pool) {
  for (int32_t page = 0; page < pool.num_pages(); ++page) {
    if (pool.num_uses(PageId{page}) > 0 || pool.num_keeps(PageId{page}) > 0) continue;
    std::fill_n(slots_.begin() + page * kPageTokens, kPageTokens, Slot());
  }
}

void FakeEngine::perform_moves(const StepPlan& plan) {
  for (const PageMove& move : plan.moves) {
    Slot* page = slots_.data() + static_cast<int64_t>(value(move.page)) * kPageTokens;
    if (move.to_host) {
      std::memcpy(move.host, page, kPageBytes);
    } else {
      std::memcpy(static_cast<void*>(page), move.host, kPageBytes);
    }
  }
}

void FakeEngine::perform_copies(const StepPlan& plan) {
  for (const PageCopy& copy : plan.copies) {
    if (copy.from == copy.to) problem(fmt::format("page {} is copied onto itself", value(copy.from)));
    const auto from = slots_.begin() + static_cast<int64_t>(value(copy.from)) * kPageTokens;
    const auto to = slots_.begin() + static_cast<int64_t>(value(copy.to)) * kPageTokens;
    std::copy_n(from, copy.num_positions, to);
    std::fill(to + copy.num_positions, to + kPageTokens, Slot());
  }
}

void FakeEngine::check_shape(const SequenceWork& work) {
  const auto length = static_cast<int32_t>(work.all_tokens.size());
  const bool is_prompt = work.role == TokenRole::kPrompt;
  const auto fail = [&](const char* what) {
    problem(fmt::format("sequence {} [{}, {}) of {}: {}", value(work.sequence), work.begin, work.end, length, what));
  };
  if (work.begin > work.end || work.end > length) fail("range");
  if (std::ssize(work.pages) * kPageTokens < work.end) fail("pages do not cover it");
  if (work.samples != (work.end == length)) fail("draws, but not at the end");
  if (work.begin == work.end && work.cached_hidden.empty()) fail("nothing to do");
  if (work.begin == work.end) return;
  if (is_prompt && work.end > work.num_prompt_tokens) fail("roles are mixed");
  if (!is_prompt && work.begin < work.num_prompt_tokens) fail("roles are mixed");
  if (is_prompt && work.begin % kPageTokens != 0) fail("a chunk begins inside a page");
  if (is_prompt && work.end % kPageTokens != 0 && work.end != work.num_prompt_tokens)
    fail("a chunk ends inside a page");
}

// Reads all rows before the work, as attention does, and returns the last one.
uint64_t FakeEngine::read_before(const SequenceWork& work) {
  uint64_t expected = kStart;
  for (int32_t position = 0; position < work.begin; ++position) {
    const TokenRole role = position < work.num_prompt_tokens ? TokenRole::kPrompt : TokenRole::kGenerated;
    expected = next_value(expected, work.all_tokens[static_cast<size_t>(position)], role);
    const uint64_t found = slot(work.pages, position).value;
    if (found == expected) continue;
    problem(fmt::format("sequence {}: position {} (page {}) holds {} rows", value(work.sequence), position,
                        value(work.pages[static_cast<size_t>(position / kPageTokens)]),
                        found == kPoison ? "no" : "foreign"));
    return found;
  }
  return expected;
}

WorkResult FakeEngine::compute(const SequenceWork& work) {
  check_shape(work);
  uint64_t last = read_before(work);
  WorkResult result;
  for (int32_t position = work.begin; position < work.end; ++position) {
    last = next_value(last, work.all_tokens[static_cast<size_t>(position)], work.role);
    slot(work.pages, position).value = last;
    if (work.num_prompt_logprobs >= 0 && position + 1 < work.num_prompt_tokens) {
      const TokenId next = work.all_tokens[static_cast<size_t>(position) + 1];
      result.prompt_logprobs.push_back({{next, -static_cast<float>(position + 1)}});
    }
  }
  if (!work.cached_hidden.empty()) last = from_hidden(work.cached_hidden);
  if (work.wants_hidden) result.hidden = to_hidden(last);
  if (work.samples) result.token = draw(last, work.seed, work.masks_stop, work.stop_ids);
  if (work.samples && script)
    if (const auto token = script(work)) result.token = token;
  return result;
}

StepResult FakeEngine::run(const StepPlan& plan) {
  perform_moves(plan);
  perform_copies(plan);
  StepResult result;
  for (const SequenceWork& work : plan.work) result.results.push_back(compute(work));
  return result;
}

std::vector<TokenId> FakeEngine::solo(const Request& request, int32_t choice, std::span<const TokenId> eos_ids,
                                      int32_t max_length) const {
  std::vector<TokenId> stop_ids = request.stop.stop_token_ids;
  if (!request.stop.ignore_eos) stop_ids.insert(stop_ids.end(), eos_ids.begin(), eos_ids.end());
  uint64_t last = kStart;
  for (const TokenId token : request.prompt) last = next_value(last, token, TokenRole::kPrompt);
  std::vector<TokenId> answer;
  const uint64_t seed = request.sampling.seed + static_cast<uint64_t>(choice);
  const auto num_prompt = std::ssize(request.prompt);
  while (std::ssize(answer) < request.stop.max_tokens && num_prompt + std::ssize(answer) < max_length) {
    const bool masks_stop = std::ssize(answer) < request.stop.min_tokens;
    answer.push_back(draw(last, seed, masks_stop, stop_ids));
    if (!masks_stop && std::ranges::find(stop_ids, answer.back()) != stop_ids.end()) break;
    last = next_value(last, answer.back(), TokenRole::kGenerated);
  }
  return answer;
}

}  // namespace sluice
