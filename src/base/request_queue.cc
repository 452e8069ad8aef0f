#include "base/request_queue.h"

#include <utility>

namespace sluice {

Status RequestQueue::submit(Request request) {
  const int64_t num_tokens = static_cast<int64_t>(request.prompt.size());
  {
    std::lock_guard lock(mutex_);
    if (closed_) return unavailable("the server is draining and takes no new requests");
    if (load_.waiting_requests >= limits_.max_requests)
      return resource_exhausted("queue full: {} requests wait (limit {})", load_.waiting_requests,
                                limits_.max_requests);
    // One request alone always fits, however long: its own limit is the context length.
    if (load_.waiting_requests > 0 && load_.waiting_tokens + num_tokens > limits_.max_tokens)
      return resource_exhausted("queue full: {} prompt tokens wait, {} more do not fit (limit {})",
                                load_.waiting_tokens, num_tokens, limits_.max_tokens);
    load_.waiting_requests += 1;
    load_.waiting_tokens += num_tokens;
    commands_.emplace_back(std::move(request));
  }
  not_empty_.notify_one();
  return {};
}

void RequestQueue::cancel(RequestId request) {
  {
    std::lock_guard lock(mutex_);
    commands_.emplace_back(CancelCommand{request});
  }
  not_empty_.notify_one();
}

void RequestQueue::finish(RequestId request, int32_t choice, int32_t num_tokens) {
  {
    std::lock_guard lock(mutex_);
    commands_.emplace_back(FinishCommand{request, choice, num_tokens});
  }
  not_empty_.notify_one();
}

void RequestQueue::set_limits(QueueLimits limits) {
  std::lock_guard lock(mutex_);
  limits_ = limits;
}

RequestId RequestQueue::next_id() {
  std::lock_guard lock(mutex_);
  return RequestId{next_id_++};
}

void RequestQueue::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  not_empty_.notify_one();
}

bool RequestQueue::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

std::vector<Command> RequestQueue::drain(Duration timeout) {
  std::unique_lock lock(mutex_);
  if (commands_.empty() && timeout.count() > 0 && !closed_)
    not_empty_.wait_for(lock, timeout, [this] { return !commands_.empty() || closed_; });
  return std::exchange(commands_, {});
}

void RequestQueue::release(int64_t num_prompt_tokens) {
  std::lock_guard lock(mutex_);
  load_.waiting_requests -= 1;
  load_.waiting_tokens -= num_prompt_tokens;
}

RequestQueue::Load RequestQueue::load() const {
  std::lock_guard lock(mutex_);
  return load_;
}

}  // namespace sluice
