// One answer between the detokeniser thread, which writes it, and a protocol's reader, which takes it when it is free.
// Owns the outbox: at most one merged delta per choice, and the end. Neither side ever waits for the other; a reader
// that leaves a full outbox untaken past a limit is told to break its connection.
//
//   detokeniser: push, push, ..., close         reader: take() -> something: write it, take again when written
//                     notify  ----on_ready----->         -> nothing: parked, on_ready() will call
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "sluice/clock.h"

#include "base/request_queue.h"
#include "server/generation.h"

namespace sluice {

struct OutboxLimits {
  // Half an hour of one reader's text at 20 tokens/s (8 bytes each with its id), or 1,300 tokens with 20
  // log-probabilities (200 bytes each): more than any client that still reads lets gather.
  size_t full_bytes = 256 << 10;
  size_t max_bytes = 4 << 20;                    // beyond this nobody waits
  Duration patience = std::chrono::seconds(10);  // with a full outbox, or with the end untaken
};

// The protocol's side. Both are called by the detokeniser thread (or whoever ends all answers), must not block and must
// not throw.
class AnswerReader {
 public:
  virtual ~AnswerReader() = default;
  // Once after each empty take(): there is something now.
  virtual void on_ready() = 0;
  // At most once, before the end is taken: break the connection, so that the write in flight fails. Must not call the
  // stream.
  virtual void on_stalled() = 0;
};

class AnswerStream {
 public:
  // `num_untaken` counts the streams whose end nobody has taken.
  AnswerStream(RequestId id, Delivery delivery, OutboxLimits limits, RequestQueue& queue, const Clock& clock,
               AnswerReader& reader, std::shared_ptr<std::atomic<int64_t>> num_untaken);
  ~AnswerStream();

  // --- the reader's side

  struct Batch {
    std::vector<GenerationDelta> deltas;  // at most one per choice, ascending
    std::optional<GenerationEnd> end;
    bool empty() const { return deltas.empty() && !end; }
  };
  // Never waits. After an empty batch the reader touches nothing more until on_ready(); after the end it is free to go.
  Batch take();
  // Nobody wants the answer any more: the loop ends it, and the end still comes through here.
  void cancel() {
    cancelled_ = true;
    queue_.cancel(id_);
  }
  bool cancelled() const { return cancelled_; }
  RequestId id() const { return id_; }

  // --- the detokeniser's side

  void push(GenerationDelta delta);  // ignored after close()
  void close(GenerationEnd end);     // the first one counts
  void notify();                     // wakes a parked reader if there is something for it

  enum class Reading : uint8_t {
    kKeepsUp,
    kBehind,   // outbox full or end untaken: look again later
    kDropped,  // has just been told to break its connection
    kGone,     // took the end, or was dropped before
  };
  Reading check_reader();

 private:
  bool has_news() const;

  const RequestId id_;
  const Delivery delivery_;
  const OutboxLimits limits_;
  RequestQueue& queue_;
  const Clock& clock_;
  AnswerReader& reader_;
  const std::shared_ptr<std::atomic<int64_t>> num_untaken_;
  std::atomic<bool> cancelled_{false};

  std::mutex mutex_;
  Batch outbox_;
  size_t outbox_bytes_ = 0;
  bool closed_ = false;
  bool end_taken_ = false;
  bool parked_ = false;
  bool dropped_ = false;
  TimePoint last_take_;
};

}  // namespace sluice
