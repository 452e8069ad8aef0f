// What the next step computes. The order of the parts is the policy: who decodes is served first (one row each, so
// that answers flow evenly), then prompts that have begun, then newcomers.
#include <algorithm>
#include <utility>

#include "sluice/check.h"

#include "scheduler/policy.h"
#include "scheduler/scheduler.h"

namespace sluice {

namespace {

int32_t num_pages_for(int32_t num_tokens) { return (num_tokens + kPageTokens - 1) / kPageTokens; }

const Sequence* find_oldest(std::span<Sequence* const> running) {
  const Sequence* oldest = nullptr;
  for (const Sequence* sequence : running)
    if (sequence->phase == SequencePhase::kRunning && (!oldest || sequence->admitted < oldest->admitted))
      oldest = sequence;
  return oldest;
}

}  // namespace

const StepPlan& Scheduler::plan(TimePoint now) {
  SLUICE_CHECK(!in_flight_, "two plans without a commit between them");
  plan_.moves.clear();
  plan_.copies.clear();
  plan_.work.clear();
  planned_.clear();

  expire_deadlines(now);
  plan_decodes();
  stats_.step_decodes = static_cast<int32_t>(planned_.size());
  // Even when decodes use the whole budget a prompt gets its page: nobody starves behind others' answers.
  int32_t budget = std::max(options_.max_batch_tokens - stats_.step_decodes, kPageTokens);
  plan_prefills(budget);
  admit(budget, now);
  plan_finished_rows();
  cache_.take_moves(plan_.moves);
  if (!plan_.work.empty()) cache_.plan_saves(plan_.moves);

  stats_.step_sequences = static_cast<int32_t>(planned_.size());
  stats_.step_tokens = static_cast<int32_t>(plan_.num_tokens());
  update_counts();
  in_flight_ = !plan_.empty();
  return plan_;
}

void Scheduler::expire_deadlines(TimePoint now) {
  while (!deadlines_.empty() && deadlines_.top().when <= now) {
    const auto place = requests_.find(deadlines_.top().request);
    deadlines_.pop();
    if (place == requests_.end()) continue;
    end_request(*place->second, FinishReason::kDeadline,
                Status(StatusCode::kDeadlineExceeded, "the deadline of the request passed"));
  }
  sweep_finished();
}

// ---- who runs already

void Scheduler::plan_decodes() {
  const Sequence* oldest = find_oldest(running_);
  // The oldest takes its page first. After that everybody takes from those behind him, who are not planned yet.
  const auto plan_one = [&](Sequence& sequence) {
    if (sequence.phase != SequencePhase::kRunning || !sequence.is_decoding()) return;
    if (reserve_or_preempt(sequence, *oldest)) add_decode(sequence);
  };
  for (size_t i = 0; i < running_.size(); ++i)
    if (running_[i] == oldest) plan_one(*running_[i]);
  for (size_t i = 0; i < running_.size(); ++i)
    if (running_[i] != oldest) plan_one(*running_[i]);
}

// Pages for everything up to the token to compute next. False: the sequence had to give way itself.
bool Scheduler::reserve_or_preempt(Sequence& needy, const Sequence& oldest) {
  while (!cache_.reserve(needy.lease, needy.length())) {
    if (!finished_.empty()) {  // rows that static batching keeps are the first to go
      drop_finished();
      continue;
    }
    Sequence* victim = choose_victim(running_, oldest);
    // Alone and without a page: it holds all pages and the source of its copy. It comes back without a copy.
    if (!victim) victim = &needy;
    SLUICE_CHECK(victim != &oldest || needy.lease.copy_from != kNoPage, "sequence {} alone does not fit",
                 value(needy.id()));
    preempt(*victim, needy);
    if (victim == &needy) return false;
  }
  return true;
}

void Scheduler::preempt(Sequence& victim, const Sequence& needy) {
  ++stats_.preemptions;
  trace(TraceKind::kPreempted, victim.request().request.id, victim.choice(), victim.computed(),
        &victim == &needy ? "no page for itself" : "a page for one before it");
  // What it computed stays findable as long as nobody takes the pages: then it continues where it was.
  cache_.publish(victim.lease, victim.tokens(), victim.computed(), victim.num_prompt_tokens());
  cache_.release(victim.lease);
  victim.restart();
  if (victim.choice() == 0) num_unforked_ -= victim.request().num_unforked();
  std::erase(running_, &victim);
  waiting_.insert(&victim);
}

void Scheduler::plan_prefills(int32_t& budget) {
  for (Sequence* sequence : running_) {
    if (budget <= 0) return;
    if (sequence->phase == SequencePhase::kRunning && !sequence->is_decoding()) add_chunk(*sequence, budget);
  }
}

// ---- newcomers

void Scheduler::admit(int32_t& budget, TimePoint now) {
  if (options_.static_batching && !running_.empty()) return;
  while (!waiting_.empty() && (budget > 0 || options_.static_batching)) {
    Sequence& head = **waiting_.begin();
    const int32_t num_slots = head.choice() == 0 ? 1 + head.request().num_unforked() : 1;
    // Nobody overtakes the head of the queue: a large request would starve behind small ones.
    if (num_slots_taken() + num_slots > options_.max_running || !admit_one(head, now)) return;
    if (head.is_decoding()) {
      // Its pages are there already: a newcomer takes nothing from anybody.
      budget -= head.length() - head.computed();  // one row, or none when it draws from a kept hidden state
      add_decode(head);
    } else if (budget > 0) {
      add_chunk(head, budget);
    }
  }
}

MatchResult Scheduler::match(const Sequence& sequence, bool allow_exact) {
  const RequestState& state = sequence.request();
  if (!state.wants_prompt_logprobs)
    return cache_.match(sequence.tokens(), sequence.num_prompt_tokens(), state.request.cache_salt, allow_exact);
  MatchResult nothing;
  nothing.lease = cache_.open(state.request.cache_salt);
  nothing.reason = MissReason::kPromptLogprobs;
  return nothing;
}

// Pages for the whole sequence, and one to spare for each that runs: it will want it within 64 steps.
bool Scheduler::admit_match(Sequence& sequence, MatchResult& found) {
  const auto num_more = num_pages_for(sequence.length()) - std::ssize(found.lease.pages);
  const int32_t to_spare = running_.empty() ? 0 : num_slots_taken() + 1;
  if (num_more + to_spare <= cache_.num_available()) return cache_.take(found, sequence.length());
  cache_.abandon(found);
  return false;
}

bool Scheduler::admit_one(Sequence& sequence, TimePoint now) {
  if (blocked_ == &sequence && !running_.empty() && cache_.num_available() <= blocked_pages_) return false;
  MatchResult found = match(sequence, true);
  bool fits = admit_match(sequence, found);
  if (!fits && running_.empty()) {
    // Even alone the copy and its source do not fit together: compute the last page again.
    found = match(sequence, false);
    fits = admit_match(sequence, found);
    SLUICE_CHECK(fits, "sequence {} alone does not fit", value(sequence.id()));
  }
  blocked_ = fits ? nullptr : &sequence;
  blocked_pages_ = cache_.num_available();
  if (!fits) return false;

  RequestState& state = sequence.request();
  trace(TraceKind::kAdmitted, state.request.id, sequence.choice(), found.num_tokens, name(found.reason));
  if (!state.was_admitted) {
    state.started = now;
    state.cached_prompt_tokens = found.num_tokens;
    stats_.prompt_tokens += sequence.num_prompt_tokens();
    stats_.cached_prompt_tokens += found.num_tokens;
    if (!state.wants_prompt_logprobs) cache_.record(found, sequence.num_prompt_tokens());
    leave_waiting(state);
  }
  waiting_.erase(&sequence);
  if (found.exact()) {
    sequence.draws_from_hidden = true;
    // Kept if it is there already (same bits): this step may look at it.
    if (state.prompt_hidden.empty()) state.prompt_hidden = std::move(found.hidden);
  }
  if (sequence.choice() == 0) num_unforked_ += state.num_unforked();
  add_running(sequence, std::move(found.lease), found.num_tokens);
  if (sequence.draws_from_hidden) fork_choices(sequence);
  return true;
}

void Scheduler::add_running(Sequence& sequence, Lease lease, int32_t num_cached) {
  sequence.start(std::move(lease), num_cached);
  sequence.admitted = next_admission_++;
  running_.insert(std::ranges::upper_bound(running_, &sequence, Order()), &sequence);
}

// The prompt is in the pages of `first`: the other choices share them and draw from the same hidden state, from the
// next step on.
void Scheduler::fork_choices(Sequence& first) {
  RequestState& state = first.request();
  if (state.num_unforked() == 0) return;
  trace(TraceKind::kForked, state.request.id, 0, state.num_unforked(), "the prompt is computed");
  num_unforked_ -= state.num_unforked();
  state.forked = true;
  for (size_t choice = 1; choice < state.choices.size(); ++choice) {
    state.choices[choice] =
        std::make_unique<Sequence>(SequenceId{next_sequence_++}, state, static_cast<int32_t>(choice));
    Sequence& sequence = *state.choices[choice];
    sequence.draws_from_hidden = true;
    add_running(sequence, cache_.fork(first.lease, first.num_prompt_tokens()), first.num_prompt_tokens());
  }
}

// ---- rows

void Scheduler::add_decode(Sequence& sequence) {
  if (!sequence.draws_from_hidden) {
    add_work(sequence, sequence.computed(), sequence.length(), TokenRole::kGenerated);
    return;
  }
  const Lease& lease = sequence.lease;
  if (lease.copy_from != kNoPage) plan_.copies.push_back({lease.copy_from, lease.pages.back(), lease.copy_positions});
  SequenceWork& work = add_work(sequence, sequence.length(), sequence.length(), TokenRole::kPrompt);
  work.cached_hidden = sequence.request().prompt_hidden;
}

void Scheduler::add_chunk(Sequence& sequence, int32_t& budget) {
  const int32_t begin = sequence.computed();
  const int32_t end = chunk_end(sequence.next_role(), begin, sequence.role_end(), budget);
  if (end == begin) return;
  budget -= end - begin;
  const RequestState& state = sequence.request();
  SequenceWork& work = add_work(sequence, begin, end, sequence.next_role());
  if (work.role != TokenRole::kPrompt) return;
  if (state.wants_prompt_logprobs) work.num_prompt_logprobs = state.request.num_prompt_logprobs;
  // For the other choices, and for whoever sends this prompt again.
  if (end == sequence.num_prompt_tokens()) work.wants_hidden = state.num_unforked() > 0 || sequence.lease.publishes;
}

SequenceWork& Scheduler::add_work(Sequence& sequence, int32_t begin, int32_t end, TokenRole role) {
  const RequestState& state = sequence.request();
  SequenceWork& work = plan_.work.emplace_back();
  work.sequence = sequence.id();
  work.begin = begin;
  work.end = end;
  work.role = role;
  work.all_tokens = sequence.tokens();
  work.num_prompt_tokens = sequence.num_prompt_tokens();
  work.pages = std::span(sequence.lease.pages).first(static_cast<size_t>(num_pages_for(end)));
  work.samples = end == sequence.length();
  work.sampling = &state.request.sampling;
  work.seed = state.request.sampling.seed + static_cast<uint64_t>(sequence.choice());
  work.masks_stop = sequence.num_generated() < state.request.stop.min_tokens;
  work.stop_ids = state.stop_ids;
  // The row of an ended answer is computed for the comparison alone.
  if (sequence.phase == SequencePhase::kRunning) work.constraint = sequence.constraint();
  work.num_logprobs = state.request.num_logprobs;
  planned_.push_back(&sequence);
  return work;
}

// Static batching as others do it: the row of an ended answer is computed again and again until its batch is done.
void Scheduler::plan_finished_rows() {
  if (!keeps_finished_rows()) return;
  for (Sequence* sequence : running_) {
    const bool has_row = sequence->phase == SequencePhase::kFinished && sequence->computed() == sequence->length() - 1;
    if (has_row && sequence->num_generated() > 0 && cache_.reserve(sequence->lease, sequence->length()))
      add_work(*sequence, sequence->computed(), sequence->length(), TokenRole::kGenerated);
  }
}

}  // namespace sluice
