#include "server/answer_stream.h"

#include <algorithm>
#include <utility>

namespace sluice {

namespace {

size_t bytes_of(const std::vector<PositionLogprobs>& positions) {
  size_t bytes = positions.size() * sizeof(PositionLogprobs);
  for (const PositionLogprobs& position : positions) bytes += position.top.size() * sizeof(TokenLogprob);
  return bytes;
}

// The prompt's log-probabilities do not count: they come once, and their size is the client's choice.
size_t bytes_of(const GenerationDelta& delta) {
  return delta.text.size() + delta.token_ids.size() * sizeof(TokenId) + bytes_of(delta.logprobs);
}

template <typename T>
void append(std::vector<T>& to, std::vector<T>&& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

void merge(GenerationDelta& to, GenerationDelta&& from) {
  to.text += from.text;
  append(to.token_ids, std::move(from.token_ids));
  append(to.logprobs, std::move(from.logprobs));
  append(to.prompt_logprobs, std::move(from.prompt_logprobs));
  to.finish = from.finish;
  to.matched_stop = std::move(from.matched_stop);
  to.matched_token = from.matched_token;
}

}  // namespace

AnswerStream::AnswerStream(RequestId id, Delivery delivery, OutboxLimits limits, RequestQueue& queue,
                           const Clock& clock, AnswerReader& reader, std::shared_ptr<std::atomic<int64_t>> num_untaken)
    : id_(id),
      delivery_(delivery),
      limits_(limits),
      queue_(queue),
      clock_(clock),
      reader_(reader),
      num_untaken_(std::move(num_untaken)),
      last_take_(clock.now()) {
  ++*num_untaken_;
}

AnswerStream::~AnswerStream() {
  if (!end_taken_) --*num_untaken_;
}

bool AnswerStream::has_news() const {
  return delivery_ == Delivery::kWhole ? outbox_.end.has_value() : !outbox_.empty();
}

AnswerStream::Batch AnswerStream::take() {
  std::lock_guard lock(mutex_);
  last_take_ = clock_.now();
  if (!has_news()) {
    parked_ = true;
    return {};
  }
  outbox_bytes_ = 0;
  if (outbox_.end && !std::exchange(end_taken_, true)) --*num_untaken_;
  return std::exchange(outbox_, {});
}

void AnswerStream::push(GenerationDelta delta) {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  outbox_bytes_ += bytes_of(delta);
  auto place = std::ranges::lower_bound(outbox_.deltas, delta.choice, {}, &GenerationDelta::choice);
  if (place != outbox_.deltas.end() && place->choice == delta.choice) {
    merge(*place, std::move(delta));
  } else {
    outbox_.deltas.insert(place, std::move(delta));
  }
}

void AnswerStream::close(GenerationEnd end) {
  std::lock_guard lock(mutex_);
  if (std::exchange(closed_, true)) return;
  outbox_.end = std::move(end);
}

void AnswerStream::notify() {
  {
    std::lock_guard lock(mutex_);
    if (!parked_ || !has_news()) return;
    parked_ = false;
  }
  // Outside the lock: the reader takes at once. It cannot be gone, because nobody but the one woken here takes the end.
  reader_.on_ready();
}

AnswerStream::Reading AnswerStream::check_reader() {
  std::lock_guard lock(mutex_);
  if (end_taken_ || dropped_) return Reading::kGone;
  if (delivery_ == Delivery::kWhole || parked_) return Reading::kKeepsUp;
  const bool full = outbox_bytes_ >= limits_.full_bytes;
  if (!full && !closed_) return Reading::kKeepsUp;
  if (clock_.now() - last_take_ < limits_.patience && outbox_bytes_ < limits_.max_bytes) return Reading::kBehind;
  dropped_ = true;
  // Under the lock, so that the reader cannot take the end and vanish meanwhile.
  reader_.on_stalled();
  return Reading::kDropped;
}

}  // namespace sluice
