// One answer in the making: its tokens, its pages and how far it is. Owns no policy and no engine state.
// Owned by the scheduler; loop thread only.
//
//   tokens    | prompt ............... | generated ...... |
//             0        cached  computed                length
//             |-- found --|-- done --|---- to compute -----|
//
// cached <= computed <= length always. A running sequence that decodes has computed == length - 1: the token drawn
// last is not computed yet.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "sluice/clock.h"
#include "sluice/grammar.h"
#include "sluice/request.h"
#include "sluice/types.h"

#include "cache/activation_cache.h"

namespace sluice {

struct RequestState;

enum class SequencePhase : uint8_t { kWaiting, kRunning, kFinished };

class Sequence {
 public:
  Sequence(SequenceId id, RequestState& request, int32_t choice);

  SequenceId id() const { return id_; }
  RequestState& request() const { return *request_; }
  int32_t choice() const { return choice_; }

  std::span<const TokenId> tokens() const { return tokens_; }
  int32_t length() const { return static_cast<int32_t>(tokens_.size()); }
  int32_t num_prompt_tokens() const { return num_prompt_tokens_; }
  int32_t num_generated() const { return length() - num_prompt_tokens_; }
  int32_t cached() const { return cached_; }
  int32_t computed() const { return computed_; }
  // Rows computed before it was preempted: those below are computed again.
  int32_t furthest() const { return furthest_; }
  bool is_prefilling() const { return computed_ < num_prompt_tokens_; }
  // Its next step draws a token and computes at most one row.
  bool is_decoding() const { return draws_from_hidden || (!is_prefilling() && length() - computed_ == 1); }

  // Role of the next position to compute, and where the run of that role ends.
  TokenRole next_role() const { return is_prefilling() ? TokenRole::kPrompt : TokenRole::kGenerated; }
  int32_t role_end() const { return is_prefilling() ? num_prompt_tokens_ : length(); }

  // What may be drawn next, in step with the generated tokens; null: anything.
  TokenConstraint* constraint() const { return constraint_.get(); }

  // Takes its place in memory: positions [0, num_cached) are already there.
  void start(Lease held, int32_t num_cached);
  void advance(int32_t num_computed);  // positions [0, num_computed) are there now
  bool append(TokenId token);          // false: the constraint does not know it; then it is not there
  void truncate(int32_t num_generated);  // drops what was generated beyond
  void restart();                        // preempted: nothing is in memory any more

  Lease lease;
  SequencePhase phase = SequencePhase::kWaiting;
  bool draws_from_hidden = false;  // the next token comes from the prompt's kept hidden state
  uint64_t admitted = 0;           // order of admission; the smallest one running is the oldest
  TimePoint first_token = kNever;
  TimePoint last_token = kNever;

 private:
  void check_order() const;

  SequenceId id_;
  RequestState* request_;
  int32_t choice_;
  int32_t num_prompt_tokens_;
  int32_t cached_ = 0;
  int32_t computed_ = 0;
  int32_t furthest_ = 0;
  std::vector<TokenId> tokens_;
  // Follows the generated tokens, not what of them is computed: a preemption does not touch it.
  std::unique_ptr<TokenConstraint> constraint_;
};

}  // namespace sluice
