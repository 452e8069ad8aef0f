// Between every protocol and the loop thread. Owns the table of open answers and the one detokeniser thread, which
// turns token ids into text, finds stop strings and fills outboxes; refuses to know wire formats. The loop thread calls
// emit(), which never waits; server threads call submit() and abort().
//
//   server thread --submit--> RequestQueue --> loop thread --emit--> events --> detokeniser thread --> AnswerStream
//                                  ^--------------- Finish (stop string), Cancel (slow reader) --+
//
// A task with a form that nobody has asked for lately goes through the grammar compiler first, and its thread submits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sluice/clock.h"
#include "sluice/grammar.h"
#include "sluice/request.h"
#include "sluice/status.h"

#include "base/request_queue.h"
#include "server/answer_record.h"
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

  // Hears of every answer's end. Before the first submit().
  void set_observer(AnswerObserver observer) { observer_ = std::move(observer); }

  // For tasks with a form; it ends before the Frontend. Before the first submit().
  void set_compiler(GrammarCompiler* compiler) { compiler_ = compiler; }

  // Hands the task over. `reader` must live until it has taken the end; it is not called before its first take().
  // RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE when it is closed, UNAUTHENTICATED when the client's token
  // was taken back meanwhile: then the reader is never called. (Where a form is compiled first, these and its own
  // INVALID_ARGUMENT are the answer's end.)
  Result<std::shared_ptr<AnswerStream>> submit(GenerationTask task, AnswerReader& reader);

  // Cancels all open answers with this client id; how many there were.
  int32_t abort(const std::string& client_id);

  // Ends everything open with `status` at once, whatever the loop thread does: the last step of a shutdown.
  void fail_all(const Status& status);

  // Ends the open answers of clients whose tokens were taken back; how many there were.
  int64_t end_revoked();

  int64_t num_open() const;
  // Answers whose reader has not taken the end yet: those that are open, and those whose last words wait for a reader.
  int64_t num_untaken() const { return *num_untaken_; }

  // What was seen of requests; the protocols count whom they refuse before submit().
  RequestMetrics& metrics() { return metrics_; }

  // The loop thread's side.
  void emit(TokenEvent event) override;

 private:
  struct OpenAnswer {
    std::shared_ptr<AnswerStream> stream;
    std::string client_id;
    std::string client;
    std::shared_ptr<const std::atomic<bool>> revoked;
    std::shared_ptr<TokenBudget> budget;
    std::optional<TraceParent> trace;
    TimePoint arrival;
    int32_t num_prompt_tokens = 0;
    std::atomic<int32_t> num_tokens{0};  // delivered, of all choices
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

  Status enqueue(const AnswerStream& stream, Request request);
  void on_compiled(RequestId id, Request request, Result<std::shared_ptr<const Grammar>> grammar);
  void run();
  bool wait_for_events(std::vector<TokenEvent>* events);
  void deliver(TokenEvent& event, TimePoint now, std::vector<Open>& touched);
  void observe_token(OpenAnswer& answer, int32_t choice, TimePoint now);
  static void close_choice(OpenAnswer& answer, const ChoiceText& choice, const TokenEvent& event);
  void close(OpenAnswer& answer, RequestId id, FinishReason finish);
  // The last word of answers that were taken out of the table.
  GenerationEnd last_word(const OpenAnswer& answer, const Status& status);
  void cut(const std::vector<std::pair<RequestId, Open>>& answers, const Status& status);
  void observe(const OpenAnswer& answer, const GenerationEnd& end, FinishReason finish) const;
  static std::string own_name(const OpenAnswer& answer);
  std::string name_of(RequestId id) const;
  void check_readers();
  Open find(RequestId id) const;
  bool forget(RequestId id);                                     // whether it was open
  void forget_name(const std::string& client_id, RequestId id);  // table_mutex_ is held

  RequestQueue& queue_;
  const Tokenizer* tokenizer_;
  const Clock& clock_;
  const OutboxLimits limits_;
  RequestMetrics metrics_;
  AnswerObserver observer_;
  GrammarCompiler* compiler_ = nullptr;
  const std::shared_ptr<std::atomic<int64_t>> num_untaken_ = std::make_shared<std::atomic<int64_t>>(0);

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
