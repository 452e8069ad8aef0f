// The bounded door between front ends and the loop thread. Many threads push; the loop thread alone pops.
// Owns what waits to be picked up, and the count of requests and prompt tokens that were let in and have not left
// the waiting state yet; refuses at once, with numbers, when either limit is reached.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <variant>
#include <vector>

#include "sluice/request.h"
#include "sluice/status.h"

namespace sluice {

struct QueueLimits {
  int64_t max_requests = 1024;     // waiting, not yet running
  int64_t max_tokens = 4'000'000;  // prompt tokens of these
};

struct CancelCommand {
  RequestId request{};
};

// From the detokeniser: a stop string ended this choice after `num_tokens` generated tokens; what was computed beyond
// is dropped, neither counted nor cached.
struct FinishCommand {
  RequestId request{};
  int32_t choice = 0;
  int32_t num_tokens = 0;
};

using Command = std::variant<Request, CancelCommand, FinishCommand>;

class RequestQueue {
 public:
  explicit RequestQueue(QueueLimits limits) : limits_(limits) {}

  // RESOURCE_EXHAUSTED when full, UNAVAILABLE when closed. Thread-safe, never waits.
  Status submit(Request request);
  void cancel(RequestId request);
  void finish(RequestId request, int32_t choice, int32_t num_tokens);

  // For requests that come from now on. Thread-safe.
  void set_limits(QueueLimits limits);

  // Identity for a new request. Thread-safe.
  RequestId next_id();

  // Refuses everything from now on (drain); what is inside stays.
  void close();
  bool closed() const;

  // Loop thread: all commands in order of arrival; waits up to `timeout` if there are none.
  std::vector<Command> drain(Duration timeout);
  // Loop thread: a request left the waiting state (it runs now, or ended), so its place is free again.
  void release(int64_t num_prompt_tokens);

  struct Load {
    int64_t waiting_requests = 0;
    int64_t waiting_tokens = 0;
  };
  Load load() const;

 private:
  mutable std::mutex mutex_;
  QueueLimits limits_;
  std::condition_variable not_empty_;
  std::vector<Command> commands_;
  Load load_;
  uint64_t next_id_ = 1;
  bool closed_ = false;
};

}  // namespace sluice
