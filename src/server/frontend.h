// Between every protocol and the loop thread. Owns the table of open answers and the one detokeniser thread, which
// turns token ids into text, finds stop strings and fills outboxes; refuses to know wire formats. The loop thread calls
// emit(), which never waits; server threads call submit() and abort().
//
//   server thread --submit--> RequestQueue --> loop thread --emit--> events --> detokeniser thread --> AnswerStream
//                                  ^--------------- Finish (stop string), Cancel (slow reader) --+
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "sluice/clock.h"
#include "sluice/request.h"
#include "sluice/status.h"

#include "base/request_queue.h"
#include "server/answer_stream.h"
#include "server/choice_text.h"
#include "server/generation.h"
#include "server/request_metrics.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

class Frontend final : public TokenSink {
 public:
  // `tokenizer` may be null: then answers are ids without text. All three outlive the Frontend; the loop thread that
  // emits into it ends before it.
  Frontend(RequestQueue& queue, const Tokenizer* tokenizer, const Clock& clock, OutboxLimits limits = {});
  // Ends what is still open with UNAVAILABLE.
  ~Frontend() override;
  Frontend(const Frontend&) = delete;
  Frontend& operator=(const Frontend&) = delete;

  // Hands the task over. `reader` must live until it has taken the end; it is not called before its first take().
  // RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE when it is closed: then the reader is never called.
  Result<std::shared_ptr<AnswerStream>> submit(GenerationTask task, AnswerReader& reader);

  // Cancels all open answers with this client id; how many there were.
  int32_t abort(const std::string& client_id);

  // Ends everything open with `status` at once, whatever the loop thread does: the last step of a shutdown.
  void fail_all(const Status& status);

  int64_t num_open() const;

  // What was seen of requests; the protocols count whom they refuse before submit().
  RequestMetrics& metrics() { return metrics_; }

  // The loop thread's side.
  void emit(TokenEvent event) override;

 private:
  struct OpenAnswer {
    std::shared_ptr<AnswerStream> stream;
    std::string client_id;
    TimePoint arrival;
    std::shared_ptr<void> lease;  // whoever takes the answer out of the table lets it go
    // The rest belongs to the detokeniser thread.
    std::vector<ChoiceText> choices;
    int32_t num_open_choices = 0;
    Status status;
    Usage usage;
    std::vector<TimePoint> last_token;  // [choices]; kNever before the first
    int32_t longest_choice = 0;         // tokens
    Duration decode_time{};             // of all choices together
    int64_t num_gaps = 0;               // between tokens of one choice, over all choices
  };
  using Open = std::shared_ptr<OpenAnswer>;

  void run();
  bool wait_for_events(std::vector<TokenEvent>* events);
  void deliver(TokenEvent& event, TimePoint now, std::vector<Open>& touched);
  void observe_token(OpenAnswer& answer, int32_t choice, TimePoint now);
  static void close_choice(OpenAnswer& answer, const ChoiceText& choice, const TokenEvent& event);
  void close(OpenAnswer& answer, RequestId id);
  void check_readers();
  Open find(RequestId id) const;
  void forget(RequestId id);

  RequestQueue& queue_;
  const Tokenizer* tokenizer_;
  const Clock& clock_;
  const OutboxLimits limits_;
  RequestMetrics metrics_;

  mutable std::mutex table_mutex_;
  std::unordered_map<RequestId, Open> open_;
  std::unordered_multimap<std::string, RequestId> by_client_id_;

  std::mutex events_mutex_;
  std::condition_variable events_came_;
  std::vector<TokenEvent> events_;
  bool stopping_ = false;

  std::set<std::shared_ptr<AnswerStream>> watched_;  // detokeniser thread: readers to look at again
  std::thread thread_;                               // last: starts when everything else is there
};

}  // namespace sluice
