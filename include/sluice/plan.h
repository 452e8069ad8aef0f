// What the scheduler tells the engine to do in one step, and what the engine answers. Plain data; spans point into
// the scheduler's sequences and stay valid until commit(). Only the loop thread touches them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sluice/grammar.h"
#include "sluice/request.h"
#include "sluice/types.h"

namespace sluice {

// Copies the first `num_positions` positions of a page (all cache groups), before anything of the step is computed.
// This is the copy of copy-on-write.
struct PageCopy {
  PageId from = kNoPage;
  PageId to = kNoPage;
  int32_t num_positions = 0;
};

// Where a page's bytes go or come from besides device memory. The engine performs the moves; src/cache only ever sees
// the host bytes.
struct PageMove {
  PageId page = kNoPage;
  std::byte* host = nullptr;  // KvLayout::bytes_per_page() bytes
  bool to_host = true;        // else from host to the page
};

// Token positions [begin, end) of one sequence, all of one role, to be computed in this step.
//
//   tokens of the sequence   0 ........ begin ........ end ..... length
//                            |-- in pages --|-- this step --|
struct SequenceWork {
  SequenceId sequence{};
  int32_t begin = 0;
  int32_t end = 0;  // begin == end: nothing to compute, only draw from `cached_hidden`
  TokenRole role = TokenRole::kPrompt;
  std::span<const TokenId> all_tokens;   // [length] prompt, then generated
  int32_t num_prompt_tokens = 0;         // all_tokens[0, num_prompt_tokens) is the prompt
  std::span<const PageId> pages;         // cover [0, end)
  bool samples = false;                  // end == length: draw the next token
  std::span<const float> cached_hidden;  // [hidden_size] final hidden state of position end-1 (exact repeat), or empty
  bool wants_hidden = false;             // answer with the final hidden state of position end-1
  const SamplingParams* sampling = nullptr;
  uint64_t seed = 0;                  // of this choice
  bool masks_stop = false;            // below min_tokens: stop ids must not be drawn
  std::span<const TokenId> stop_ids;  // what masks_stop masks
  TokenConstraint* constraint = nullptr;  // what may be drawn; null: anything. Not advanced by the engine
  int32_t num_logprobs = -1;
  int32_t num_prompt_logprobs = -1;  // >= 0: also for the prompt positions in [begin, end)
};

struct StepPlan {
  std::vector<PageMove> moves;     // first
  std::vector<PageCopy> copies;    // then
  std::vector<SequenceWork> work;  // then the model, prompt chunks and decodes together

  bool empty() const { return work.empty() && copies.empty() && moves.empty(); }
  int64_t num_tokens() const {
    int64_t count = 0;
    for (const SequenceWork& item : work) count += item.end - item.begin;
    return count;
  }
};

// The answer to work[i] is results[i].
struct WorkResult {
  std::optional<TokenId> token;  // when samples; none: the constraint allowed nothing
  std::optional<float> logprob;
  std::vector<TokenLogprob> top_logprobs;
  std::vector<std::vector<TokenLogprob>> prompt_logprobs;  // entry i: of token begin+1+i given [0, begin+i]
  std::vector<float> hidden;                               // when wants_hidden
};

struct StepResult {
  Status status;  // not ok: nothing of the step took effect
  std::vector<WorkResult> results;
};

}  // namespace sluice
