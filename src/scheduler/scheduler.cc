// The life of requests: in, and out. What a step computes: step_plan.cc. What came of it: step_commit.cc.
#include "scheduler/scheduler.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "sluice/check.h"

#include "scheduler/policy.h"

namespace sluice {

bool Scheduler::Order::operator()(const Sequence* a, const Sequence* b) const {
  return std::tuple(a->request().order, a->id()) < std::tuple(b->request().order, b->id());
}

Scheduler::Scheduler(SchedulerOptions options, ActivationCache& cache, TokenSink& sink, SchedulerHooks hooks)
    : options_(std::move(options)),
      max_length_(static_cast<int32_t>(
          std::min<int64_t>(options_.context_length, int64_t{cache.options().num_pages} * kPageTokens))),
      cache_(cache),
      sink_(sink),
      hooks_(std::move(hooks)) {
  SLUICE_CHECK(options_.max_batch_tokens > 0 && options_.max_running > 0 && options_.context_length > 1,
               "max_batch_tokens={} max_running={} context_length={}", options_.max_batch_tokens, options_.max_running,
               options_.context_length);
}

Scheduler::~Scheduler() {
  for (auto& [id, state] : requests_)
    for (auto& sequence : state->choices)
      if (sequence) cache_.release(sequence->lease);
}

// ---- in

Status Scheduler::find_reason_to_reject(const Request& request) const {
  const auto num_prompt = std::ssize(request.prompt);
  if (num_prompt >= options_.context_length)
    return invalid_argument("prompt: {} tokens leave no room for an answer in a context of {}", num_prompt,
                            options_.context_length);
  if (num_prompt >= max_length_)
    return resource_exhausted("prompt: {} tokens and an answer do not fit into the {} tokens of cache memory",
                              num_prompt, max_length_);
  if (request.num_choices > options_.max_running)
    return resource_exhausted("num_choices: {}, at most {} sequences run at once", request.num_choices,
                              options_.max_running);
  return {};
}

void Scheduler::submit(Request request, TimePoint now) {
  SLUICE_CHECK(!in_flight_ && !requests_.contains(request.id), "request {}", value(request.id));
  SLUICE_CHECK(!request.prompt.empty() && request.num_choices >= 1, "request {}", value(request.id));
  if (const Status reason = find_reason_to_reject(request); !reason.ok()) return reject(request, reason);
  if (request.arrival == TimePoint{}) request.arrival = now;
  if (request.deadline != kNever) deadlines_.push({request.deadline, request.id});

  auto state = std::make_unique<RequestState>();
  state->order = order_key(request.priority, request.arrival, options_.ageing);
  if (!request.stop.ignore_eos) state->stop_ids = options_.eos_token_ids;
  state->stop_ids.insert(state->stop_ids.end(), request.stop.stop_token_ids.begin(), request.stop.stop_token_ids.end());
  state->wants_prompt_logprobs = request.num_prompt_logprobs >= 0;
  if (state->wants_prompt_logprobs) state->prompt_logprobs.resize(request.prompt.size());
  state->num_open = request.num_choices;
  state->choices.resize(static_cast<size_t>(request.num_choices));
  state->request = std::move(request);
  state->choices[0] = std::make_unique<Sequence>(SequenceId{next_sequence_++}, *state, 0);
  waiting_.insert(state->choices[0].get());
  update_counts();
  requests_.emplace(state->request.id, std::move(state));
}

void Scheduler::reject(const Request& request, const Status& reason) {
  trace(TraceKind::kRejected, request.id, 0, std::ssize(request.prompt),
        reason.code() == StatusCode::kInvalidArgument ? "context" : "memory");
  for (int32_t choice = 0; choice < request.num_choices; ++choice) {
    TokenEvent event;
    event.request = request.id;
    event.choice = choice;
    event.finish = FinishReason::kError;
    event.error = reason;
    event.usage.prompt_tokens = static_cast<int32_t>(request.prompt.size());
    ++stats_.finished[static_cast<size_t>(event.finish)];
    sink_.emit(std::move(event));
  }
  if (hooks_.left_waiting) hooks_.left_waiting(std::ssize(request.prompt));
}

// ---- out

void Scheduler::cancel(RequestId request) {
  SLUICE_CHECK(!in_flight_, "cancel between plan() and commit()");
  const auto place = requests_.find(request);
  if (place == requests_.end()) return;
  end_request(*place->second, FinishReason::kCancelled, Status(StatusCode::kCancelled, "cancelled by the client"));
  sweep_finished();
}

void Scheduler::cancel_all(const Status& reason) {
  SLUICE_CHECK(!in_flight_, "cancel_all between plan() and commit()");
  std::vector<RequestState*> states;
  for (const auto& [id, state] : requests_) states.push_back(state.get());
  // In the order in which they came, not in that of a hash table.
  std::ranges::sort(states, {}, [](const RequestState* state) { return state->request.id; });
  for (RequestState* state : states) end_request(*state, FinishReason::kError, reason);
  drop_finished();
}

void Scheduler::finish(RequestId request, int32_t choice, int32_t num_tokens) {
  SLUICE_CHECK(!in_flight_, "finish between plan() and commit()");
  const auto place = requests_.find(request);
  if (place == requests_.end()) return;
  auto& choices = place->second->choices;
  if (choice < 0 || choice >= std::ssize(choices) || !choices[static_cast<size_t>(choice)]) return;
  Sequence& sequence = *choices[static_cast<size_t>(choice)];
  if (sequence.phase == SequencePhase::kFinished) return;
  stats_.generated_tokens -= std::max(0, sequence.num_generated() - num_tokens);
  sequence.truncate(num_tokens);
  end(sequence, FinishReason::kStop, TokenEvent());
  sweep_finished();
}

void Scheduler::end_request(RequestState& state, FinishReason reason, const Status& error) {
  if (state.num_open == 0) return;  // ended already, only its rows are kept
  leave_waiting(state);
  for (size_t choice = 0; choice < state.choices.size(); ++choice) {
    TokenEvent event;
    event.choice = static_cast<int32_t>(choice);
    event.error = error;
    Sequence* sequence = state.choices[choice].get();
    if (!sequence) {
      close_choice(state, reason, std::move(event), nullptr);
    } else if (sequence->phase != SequencePhase::kFinished) {
      end(*sequence, reason, std::move(event));
    }
  }
}

void Scheduler::end(Sequence& sequence, FinishReason reason, TokenEvent event) {
  RequestState& state = sequence.request();
  if (sequence.phase == SequencePhase::kWaiting) waiting_.erase(&sequence);
  if (sequence.phase == SequencePhase::kRunning && sequence.choice() == 0) num_unforked_ -= state.num_unforked();
  if (blocked_ == &sequence) blocked_ = nullptr;
  // An answer that came to its end is likely to come back as part of the next turn's prompt.
  if ((reason == FinishReason::kStop || reason == FinishReason::kLength) && cache_.options().reuse_generated)
    cache_.publish(sequence.lease, sequence.tokens(), sequence.computed(), sequence.num_prompt_tokens());
  sequence.phase = SequencePhase::kFinished;
  finished_.push_back(&sequence);
  event.choice = sequence.choice();
  close_choice(state, reason, std::move(event), &sequence);
}

void Scheduler::close_choice(RequestState& state, FinishReason reason, TokenEvent event, const Sequence* sequence) {
  event.request = state.request.id;
  event.finish = reason;
  Usage& usage = event.usage;
  usage.prompt_tokens = static_cast<int32_t>(state.request.prompt.size());
  usage.cached_prompt_tokens = state.cached_prompt_tokens;
  if (state.started != kNever) usage.queue_time = state.started - state.request.arrival;
  if (sequence && sequence->first_token != kNever) {
    usage.completion_tokens = sequence->num_generated();
    usage.prefill_time = sequence->first_token - state.started;
    usage.decode_time = sequence->last_token - sequence->first_token;
  }
  ++stats_.finished[static_cast<size_t>(reason)];
  --state.num_open;
  trace(TraceKind::kFinished, event.request, event.choice, usage.completion_tokens, name(reason));
  sink_.emit(std::move(event));
}

void Scheduler::leave_waiting(RequestState& state) {
  if (std::exchange(state.was_admitted, true)) return;
  if (hooks_.left_waiting) hooks_.left_waiting(std::ssize(state.request.prompt));
}

// Takes what ended out of the books. With keep_finished_rows it stays until the last of the batch has ended.
void Scheduler::sweep_finished() {
  if (finished_.empty()) return;
  const auto is_running = [](const Sequence* sequence) { return sequence->phase == SequencePhase::kRunning; };
  if (keeps_finished_rows() && std::ranges::any_of(running_, is_running)) return;
  drop_finished();
}

void Scheduler::drop_finished() {
  std::erase_if(running_, [](const Sequence* sequence) { return sequence->phase == SequencePhase::kFinished; });
  std::vector<RequestId> closed;
  for (Sequence* sequence : std::exchange(finished_, {})) {
    cache_.release(sequence->lease);
    if (sequence->request().num_open == 0) closed.push_back(sequence->request().request.id);
  }
  for (const RequestId request : closed) requests_.erase(request);
  update_counts();
}

void Scheduler::update_counts() {
  stats_.running = static_cast<int32_t>(running_.size());
  stats_.waiting = static_cast<int32_t>(waiting_.size());
}

TimePoint Scheduler::next_deadline() const { return deadlines_.empty() ? kNever : deadlines_.top().when; }

void Scheduler::trace(TraceKind kind, RequestId request, int32_t choice, int64_t amount, const char* why) const {
  if (hooks_.trace) hooks_.trace({kind, request, choice, amount, why});
}

void Scheduler::check_invariants() const {
  size_t num_running = 0, num_waiting = 0;
  int32_t num_unforked = 0;
  std::vector<int32_t> uses(static_cast<size_t>(cache_.options().num_pages), 0);
  for (const auto& [id, state] : requests_) {
    for (const auto& sequence : state->choices) {
      if (!sequence) continue;
      num_running += sequence->phase == SequencePhase::kRunning;
      num_waiting += sequence->phase == SequencePhase::kWaiting;
      SLUICE_CHECK((waiting_.contains(sequence.get())) == (sequence->phase == SequencePhase::kWaiting), "sequence {}",
                   value(sequence->id()));
      for (const PageId page : sequence->lease.pages) ++uses[static_cast<size_t>(value(page))];
      if (sequence->lease.copy_from != kNoPage) ++uses[static_cast<size_t>(value(sequence->lease.copy_from))];
      if (sequence->phase == SequencePhase::kRunning && sequence->choice() == 0) num_unforked += state->num_unforked();
    }
  }
  const auto runs = [](const Sequence* sequence) { return sequence->phase == SequencePhase::kRunning; };
  SLUICE_CHECK(std::ranges::count_if(running_, runs) == static_cast<int64_t>(num_running), "{} running", num_running);
  SLUICE_CHECK(waiting_.size() == num_waiting, "{} waiting, {} listed", num_waiting, waiting_.size());
  SLUICE_CHECK(num_unforked == num_unforked_, "{} unforked, {} counted", num_unforked, num_unforked_);
  SLUICE_CHECK(std::ranges::is_sorted(running_, Order()), "running out of order");
  for (size_t page = 0; page < uses.size(); ++page) {
    const int32_t counted = cache_.pool().num_uses(PageId{static_cast<int32_t>(page)});
    SLUICE_CHECK(uses[page] == counted, "page {}: {} sequences hold it, {} counted", page, uses[page], counted);
  }
  cache_.check_invariants();
}

}  // namespace sluice
