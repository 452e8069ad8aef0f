#include "scheduler/sequence.h"

#include <algorithm>
#include <utility>

#include "sluice/check.h"

#include "scheduler/request_state.h"

namespace sluice {

Sequence::Sequence(SequenceId id, RequestState& request, int32_t choice)
    : id_(id),
      request_(&request),
      choice_(choice),
      num_prompt_tokens_(static_cast<int32_t>(request.request.prompt.size())),
      tokens_(request.request.prompt),
      constraint_(request.request.grammar ? request.request.grammar->begin(request.request.grammar_after) : nullptr) {}

void Sequence::start(Lease held, int32_t num_cached) {
  lease = std::move(held);
  cached_ = computed_ = num_cached;
  phase = SequencePhase::kRunning;
  check_order();
}

void Sequence::advance(int32_t num_computed) {
  computed_ = num_computed;
  check_order();
}

bool Sequence::append(TokenId token) {
  SLUICE_CHECK(computed_ == length(), "a token is drawn at {} of {}", computed_, length());
  if (constraint_ && !constraint_->advance(token)) return false;
  tokens_.push_back(token);
  return true;
}

void Sequence::truncate(int32_t num_generated) {
  const int32_t new_length = std::min(length(), num_prompt_tokens_ + num_generated);
  if (constraint_) constraint_->roll_back(length() - new_length);
  tokens_.resize(static_cast<size_t>(new_length));
  cached_ = std::min(cached_, new_length);
  computed_ = std::min(computed_, new_length);
}

void Sequence::restart() {
  furthest_ = std::max(furthest_, computed_);
  cached_ = computed_ = 0;
  draws_from_hidden = false;
  phase = SequencePhase::kWaiting;
}

void Sequence::check_order() const {
  SLUICE_CHECK(cached_ <= computed_ && computed_ <= length(), "cached={} computed={} length={}", cached_, computed_,
               length());
}

}  // namespace sluice
