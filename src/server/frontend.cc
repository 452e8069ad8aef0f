#include "server/frontend.h"

#include <algorithm>
#include <utility>

#include "sluice/check.h"
#include "sluice/log.h"

namespace sluice {

namespace {

// How often slow readers are looked at. A tenth of the shortest patience that makes sense; costs nothing while every
// reader keeps up, because then nobody ticks.
constexpr auto kReaderTick = std::chrono::milliseconds(50);

constexpr const char* kRevoked = "authorization: the token was taken back";

// Every reason but a regular end has a status, even if the loop gave none.
Status status_of(const TokenEvent& event) {
  if (!event.error.ok()) return event.error;
  switch (event.finish) {
    case FinishReason::kCancelled:
      return {StatusCode::kCancelled, "the request was cancelled"};
    case FinishReason::kDeadline:
      return {StatusCode::kDeadlineExceeded, "the deadline of the request passed"};
    case FinishReason::kError:
      return internal_error("the step failed");
    case FinishReason::kNone:
    case FinishReason::kStop:
    case FinishReason::kLength:
      return {};
  }
  return {};
}

}  // namespace

Frontend::Frontend(RequestQueue& queue, const Tokenizer* tokenizer, const Clock& clock, OutboxLimits limits)
    : queue_(queue), tokenizer_(tokenizer), clock_(clock), limits_(limits), thread_([this] { run(); }) {}

Frontend::~Frontend() {
  {
    std::lock_guard lock(events_mutex_);
    stopping_ = true;
  }
  events_came_.notify_one();
  thread_.join();
  fail_all(unavailable("the server is shutting down"));
}

Result<std::shared_ptr<AnswerStream>> Frontend::submit(GenerationTask task, AnswerReader& reader) {
  const RequestId id = queue_.next_id();
  task.request.id = id;
  task.request.arrival = clock_.now();

  auto answer = std::make_shared<OpenAnswer>();
  answer->stream = std::make_shared<AnswerStream>(id, task.delivery, limits_, queue_, clock_, reader, num_untaken_);
  answer->client_id = task.client_id;
  answer->client = task.client;
  answer->revoked = task.revoked;
  answer->budget = task.budget;
  answer->trace = task.trace;
  answer->arrival = task.request.arrival;
  answer->num_prompt_tokens = static_cast<int32_t>(task.request.prompt.size());
  answer->lease = std::move(task.lease);
  answer->num_open_choices = task.request.num_choices;
  answer->last_token.assign(static_cast<size_t>(task.request.num_choices), kNever);
  for (int32_t choice = 0; choice < task.request.num_choices; ++choice) answer->choices.emplace_back(task, tokenizer_);
  std::shared_ptr<AnswerStream> stream = answer->stream;
  const auto revoked = task.revoked;
  {
    std::lock_guard lock(table_mutex_);
    open_.emplace(id, std::move(answer));
    if (!task.client_id.empty()) by_client_id_.emplace(task.client_id, id);
  }
  // Either this sees the flag, or end_revoked() sees the answer in the table.
  if (revoked && *revoked) {
    forget(id);
    metrics_.rejected(Rejection::kUnauthenticated);
    return Status(StatusCode::kUnauthenticated, kRevoked);
  }
  Status status;
  if (task.form) task.request.grammar = compiler_->find(*task.form);
  if (task.form && !task.request.grammar) {
    status = compiler_->compile(std::move(*task.form), [this, id, request = std::move(task.request)](auto grammar) {
      on_compiled(id, request, std::move(grammar));
    });
  } else {
    // The first event may come before submit() returns, so the table knows the answer already.
    status = enqueue(*stream, std::move(task.request));
  }
  if (!status.ok()) {
    forget(id);
    metrics_.rejected(status);
    return status;
  }
  return stream;
}

Status Frontend::enqueue(const AnswerStream& stream, Request request) {
  SLUICE_RETURN_IF_ERROR(queue_.submit(std::move(request)));
  // Who cancelled the answer, or took it out of the table, before the request was in the queue cancelled what was not
  // there yet. (An answer that has ended by now is not known to the scheduler any more.)
  if (stream.cancelled() || !find(stream.id())) queue_.cancel(stream.id());
  return {};
}

// The compiler's thread.
void Frontend::on_compiled(RequestId id, Request request, Result<std::shared_ptr<const Grammar>> grammar) {
  const Open answer = find(id);
  if (!answer) return;
  Status status = grammar.status();
  if (answer->stream->cancelled()) status = {StatusCode::kCancelled, "the request was cancelled"};
  if (status.ok()) {
    request.grammar = std::move(*grammar);
    status = enqueue(*answer->stream, std::move(request));
  }
  if (status.ok() || !forget(id)) return;
  metrics_.rejected(status);
  last_word(*answer, status);
}

int32_t Frontend::abort(const std::string& client_id) {
  std::vector<std::shared_ptr<AnswerStream>> streams;
  {
    std::lock_guard lock(table_mutex_);
    const auto [begin, end] = by_client_id_.equal_range(client_id);
    for (auto place = begin; place != end; ++place) streams.push_back(open_.at(place->second)->stream);
  }
  for (const auto& stream : streams) stream->cancel();
  return static_cast<int32_t>(streams.size());
}

void Frontend::fail_all(const Status& status) {
  std::vector<std::pair<RequestId, Open>> answers;
  {
    std::lock_guard lock(table_mutex_);
    answers.assign(open_.begin(), open_.end());
    open_.clear();
    by_client_id_.clear();
  }
  cut(answers, status);
}

int64_t Frontend::end_revoked() {
  std::vector<std::pair<RequestId, Open>> answers;
  {
    std::lock_guard lock(table_mutex_);
    for (const auto& [id, answer] : open_)
      if (answer->revoked && *answer->revoked) answers.emplace_back(id, answer);
    for (const auto& [id, answer] : answers) {
      forget_name(answer->client_id, id);
      open_.erase(id);
    }
  }
  cut(answers, {StatusCode::kUnauthenticated, kRevoked});
  return std::ssize(answers);
}

void Frontend::cut(const std::vector<std::pair<RequestId, Open>>& answers, const Status& status) {
  for (const auto& [id, answer] : answers) {
    queue_.cancel(id);
    answer->lease.reset();
    metrics_.cut(last_word(*answer, status));
  }
}

// To the reader and to the observer, from what any thread may know of the answer.
GenerationEnd Frontend::last_word(const OpenAnswer& answer, const Status& status) {
  GenerationEnd end;
  end.status = status;
  end.usage.prompt_tokens = answer.num_prompt_tokens;
  end.usage.completion_tokens = answer.num_tokens;
  end.total_time = clock_.now() - answer.arrival;
  observe(answer, end, FinishReason::kNone);
  answer.stream->close(end);
  answer.stream->notify();
  return end;
}

// A client's name for its request stands behind its tenant's (auth.h).
std::string Frontend::own_name(const OpenAnswer& answer) {
  const size_t scope = answer.client_id.find('\n');
  return answer.client_id.substr(scope == std::string::npos ? 0 : scope + 1);
}

// For the log. An answer that has ended while its reader sleeps is known by our number alone.
std::string Frontend::name_of(RequestId id) const {
  const Open answer = find(id);
  return answer ? own_name(*answer) : fmt::format("number {}", value(id));
}

void Frontend::observe(const OpenAnswer& answer, const GenerationEnd& end, FinishReason finish) const {
  if (!observer_) return;
  observer_({.request_id = own_name(answer),
             .client = answer.client,
             .trace = answer.trace,
             .end = end,
             .finish = finish,
             .ended_at = std::chrono::system_clock::now()});
}

int64_t Frontend::num_open() const {
  std::lock_guard lock(table_mutex_);
  return std::ssize(open_);
}

void Frontend::emit(TokenEvent event) {
  bool was_empty;
  {
    std::lock_guard lock(events_mutex_);
    was_empty = events_.empty();
    events_.push_back(std::move(event));
  }
  if (was_empty) events_came_.notify_one();
}

void Frontend::run() {
  std::vector<TokenEvent> events;
  while (wait_for_events(&events)) {
    // A step brings one event per sequence: gather them all first, then wake each reader once.
    std::vector<Open> touched;
    const TimePoint now = clock_.now();
    for (TokenEvent& event : events) deliver(event, now, touched);
    for (const Open& answer : touched) {
      answer->stream->notify();
      watched_.insert(answer->stream);
    }
    check_readers();
  }
}

// False when all is over. No events after a tick.
bool Frontend::wait_for_events(std::vector<TokenEvent>* events) {
  std::unique_lock lock(events_mutex_);
  const auto came = [this] { return !events_.empty() || stopping_; };
  if (watched_.empty()) {
    events_came_.wait(lock, came);
  } else {
    events_came_.wait_for(lock, kReaderTick, came);
  }
  events->clear();
  events->swap(events_);
  return !events->empty() || !stopping_;
}

void Frontend::deliver(TokenEvent& event, TimePoint now, std::vector<Open>& touched) {
  const Open answer = find(event.request);
  if (!answer) return;  // ended by fail_all(); the loop has not heard of it yet
  SLUICE_CHECK(event.choice >= 0 && event.choice < std::ssize(answer->choices), "choice {} of {}", event.choice,
               answer->choices.size());
  ChoiceText& choice = answer->choices[static_cast<size_t>(event.choice)];
  if (choice.finished()) return;
  if (event.token && !choice.stopped_by_string()) observe_token(*answer, event.choice, now);

  GenerationDelta delta;
  delta.choice = event.choice;
  if (choice.apply(event, &delta)) queue_.finish(event.request, event.choice, choice.num_tokens());
  answer->num_tokens += static_cast<int32_t>(delta.token_ids.size());
  if (answer->budget) answer->budget->charge(std::ssize(delta.token_ids));
  const bool has_news = !delta.token_ids.empty() || !delta.prompt_logprobs.empty() || choice.finished();
  if (has_news) answer->stream->push(std::move(delta));
  if (choice.finished()) close_choice(*answer, choice, event);
  if (answer->num_open_choices == 0)
    close(*answer, event.request, choice.stopped_by_string() ? FinishReason::kStop : event.finish);
  if (has_news && (touched.empty() || touched.back() != answer)) touched.push_back(answer);
}

// `now` is when the events were fetched: a thread that comes late sees the tokens of two steps at once, as the client
// does.
void Frontend::observe_token(OpenAnswer& answer, int32_t choice, TimePoint now) {
  TimePoint& last = answer.last_token[static_cast<size_t>(choice)];
  if (last != kNever) {
    metrics_.inter_token(now - last);
  } else if (std::ranges::all_of(answer.last_token, [](TimePoint time) { return time == kNever; })) {
    metrics_.first_token(now - answer.arrival);
  }
  last = now;
}

void Frontend::close_choice(OpenAnswer& answer, const ChoiceText& choice, const TokenEvent& event) {
  const int32_t num_tokens =
      choice.stopped_by_string() ? choice.num_tokens() : std::max(event.usage.completion_tokens, choice.num_tokens());
  Usage& usage = answer.usage;
  const bool first = answer.num_open_choices == std::ssize(answer.choices);
  usage.prompt_tokens = event.usage.prompt_tokens;
  usage.cached_prompt_tokens = event.usage.cached_prompt_tokens;
  usage.completion_tokens += num_tokens;
  answer.longest_choice = std::max(answer.longest_choice, num_tokens);
  if (first || event.usage.queue_time < usage.queue_time) usage.queue_time = event.usage.queue_time;
  if (first || event.usage.prefill_time < usage.prefill_time) usage.prefill_time = event.usage.prefill_time;
  usage.decode_time = std::max(usage.decode_time, event.usage.decode_time);
  answer.decode_time += event.usage.decode_time;
  // The loop's time runs to the last token it computed, overshoot included.
  answer.num_gaps += std::max(0, std::max(num_tokens, event.usage.completion_tokens) - 1);
  if (!choice.stopped_by_string() && answer.status.ok()) answer.status = status_of(event);
  --answer.num_open_choices;
}

void Frontend::close(OpenAnswer& answer, RequestId id, FinishReason finish) {
  GenerationEnd end;
  end.status = answer.status;
  end.usage = answer.usage;
  end.total_time = clock_.now() - answer.arrival;
  if (answer.num_gaps > 0) end.time_per_token = answer.decode_time / answer.num_gaps;
  metrics_.ended(end, answer.longest_choice);
  // In this order: who has seen the end finds the answer no longer open.
  if (forget(id)) observe(answer, end, finish);
  answer.stream->close(std::move(end));
}

void Frontend::check_readers() {
  std::erase_if(watched_, [this](const std::shared_ptr<AnswerStream>& stream) {
    switch (stream->check_reader()) {
      case AnswerStream::Reading::kBehind:
        return false;
      case AnswerStream::Reading::kDropped:
        log_warn("request {}: its reader is dropped; it left {} bytes or the end untaken for {:.1f} s, or {} bytes",
                 name_of(stream->id()), limits_.full_bytes, seconds(limits_.patience), limits_.max_bytes);
        stream->cancel();
        return true;
      case AnswerStream::Reading::kKeepsUp:
      case AnswerStream::Reading::kGone:
        return true;
    }
    return true;
  });
}

Frontend::Open Frontend::find(RequestId id) const {
  std::lock_guard lock(table_mutex_);
  const auto place = open_.find(id);
  return place == open_.end() ? nullptr : place->second;
}

bool Frontend::forget(RequestId id) {
  std::lock_guard lock(table_mutex_);
  const auto place = open_.find(id);
  if (place == open_.end()) return false;
  forget_name(place->second->client_id, id);
  place->second->lease.reset();
  open_.erase(place);
  return true;
}

void Frontend::forget_name(const std::string& client_id, RequestId id) {
  const auto [begin, end] = by_client_id_.equal_range(client_id);
  const auto place = std::find_if(begin, end, [id](const auto& entry) { return entry.second == id; });
  if (place != end) by_client_id_.erase(place);
}

}  // namespace sluice
