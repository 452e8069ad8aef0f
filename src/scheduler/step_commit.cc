// What came of a step: progress, new tokens, ends.
#include <algorithm>
#include <utility>

#include "sluice/check.h"

#include "scheduler/scheduler.h"

namespace sluice {

void Scheduler::commit(StepResult result, TimePoint now) {
  SLUICE_CHECK(std::exchange(in_flight_, false), "commit without a plan");
  ++stats_.steps;
  if (!result.status.ok()) {
    fail_step(result.status);
  } else {
    SLUICE_CHECK(result.results.size() == planned_.size(), "{} works, {} results", planned_.size(),
                 result.results.size());
    cache_.commit_saves();
    for (size_t i = 0; i < planned_.size(); ++i) {
      // The row of an ended sequence (keep_finished_rows) is of no interest.
      if (planned_[i]->phase == SequencePhase::kRunning)
        commit_work(*planned_[i], plan_.work[i], result.results[i], now);
    }
  }
  sweep_finished();
  update_counts();
}

// Nothing of the step took effect, so pages may not hold what the books say: all that run end here, and nothing that
// was cached is trusted. Who waits starts with the next step.
void Scheduler::fail_step(const Status& status) {
  const std::vector<Sequence*> running = running_;
  for (Sequence* sequence : running)
    if (sequence->phase == SequencePhase::kRunning) end_request(sequence->request(), FinishReason::kError, status);
  drop_finished();
  cache_.forget_all();
}

void Scheduler::commit_work(Sequence& sequence, const SequenceWork& work, WorkResult& result, TimePoint now) {
  RequestState& state = sequence.request();
  if (work.begin == work.end) {
    sequence.draws_from_hidden = false;
    cache_.drop_copy_source(sequence.lease);
  } else {
    stats_.computed_tokens += work.end - work.begin;
    stats_.recomputed_tokens += std::max(0, std::min(work.end, sequence.furthest()) - work.begin);
    sequence.advance(work.end);
    if (work.role == TokenRole::kPrompt) {
      cache_.publish(sequence.lease, sequence.tokens(), work.end, sequence.num_prompt_tokens());
      if (work.num_prompt_logprobs >= 0) commit_prompt_logprobs(state, work, result);
      if (work.wants_hidden) commit_prompt_end(sequence, result);
    }
  }
  if (work.samples) commit_token(sequence, result, now);
}

void Scheduler::commit_prompt_logprobs(RequestState& state, const SequenceWork& work, WorkResult& result) {
  // The last row of the prompt speaks of the first generated token, which is none of the prompt's.
  const auto count = std::min<int64_t>(std::ssize(result.prompt_logprobs), work.num_prompt_tokens - 1 - work.begin);
  for (int64_t i = 0; i < count; ++i)
    state.prompt_logprobs[static_cast<size_t>(work.begin + 1 + i)] =
        std::move(result.prompt_logprobs[static_cast<size_t>(i)]);
}

void Scheduler::commit_prompt_end(Sequence& sequence, WorkResult& result) {
  RequestState& state = sequence.request();
  SLUICE_CHECK(!result.hidden.empty(), "no hidden state for sequence {}", value(sequence.id()));
  cache_.publish_end(sequence.lease, state.request.prompt, result.hidden);
  if (state.num_unforked() == 0) return;
  if (state.prompt_hidden.empty()) state.prompt_hidden = std::move(result.hidden);
  fork_choices(sequence);
}

void Scheduler::commit_token(Sequence& sequence, WorkResult& result, TimePoint now) {
  RequestState& state = sequence.request();
  const StopParams& stop = state.request.stop;
  SLUICE_CHECK(result.token.has_value() || sequence.constraint(), "no token for sequence {}", value(sequence.id()));
  const bool may_stop = sequence.num_generated() >= stop.min_tokens;
  if (!result.token || !sequence.append(*result.token)) return end_in_dead_end(sequence, result);
  const TokenId token = *result.token;
  ++stats_.generated_tokens;
  if (sequence.first_token == kNever) sequence.first_token = now;
  sequence.last_token = now;

  TokenEvent event;
  event.request = state.request.id;
  event.choice = sequence.choice();
  event.token = token;
  event.logprob = result.logprob;
  event.top_logprobs = std::move(result.top_logprobs);
  if (std::exchange(state.wants_prompt_logprobs, false)) event.prompt_logprobs = std::move(state.prompt_logprobs);

  const bool form_ended = sequence.constraint() && sequence.constraint()->ended();
  if (form_ended || (may_stop && std::ranges::find(state.stop_ids, token) != state.stop_ids.end())) {
    event.matched_token = token;
    end(sequence, FinishReason::kStop, std::move(event));
  } else if (sequence.num_generated() >= stop.max_tokens || sequence.length() >= max_length_) {
    end(sequence, FinishReason::kLength, std::move(event));
  } else {
    sink_.emit(std::move(event));
  }
}

void Scheduler::end_in_dead_end(Sequence& sequence, const WorkResult& result) {
  TokenEvent event;
  event.error = result.token ? internal_error("token {} was drawn against the grammar", *result.token)
                             : invalid_argument("grammar: no token of the vocabulary continues the answer");
  end(sequence, FinishReason::kError, std::move(event));
}

}  // namespace sluice
