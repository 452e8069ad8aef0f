// Iteration-level continuous batching: decides which tokens of which sequences the engine computes next. Owns the
// requests from submit() to their closing event, their sequences and the order among them; refuses to know kernels,
// text, sockets, threads or the time (it is told). Called by the serve loop, by `generate` and by tests; one thread.
//
//   submit() -> waiting ---- plan(): match, reserve ----> running ---- commit(): end, events ----> gone
//                  ^                                         |
//                  +--------- preempted (recomputed) --------+
//
// The loop:   apply commands;  plan = scheduler.plan(now);  if (!plan.empty()) scheduler.commit(engine.run(plan), now);
// Commands (submit, cancel, finish) never come between plan() and commit() of a step that is not empty.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <queue>
#include <set>
#include <unordered_map>
#include <vector>

#include "sluice/clock.h"
#include "sluice/plan.h"
#include "sluice/request.h"

#include "cache/activation_cache.h"
#include "scheduler/request_state.h"
#include "scheduler/sequence.h"
#include "scheduler/trace.h"

namespace sluice {

struct SchedulerOptions {
  int32_t max_batch_tokens = 512;  // tokens per step; prefill always gets at least one page, so that it never starves
  int32_t max_running = 256;       // sequences
  int32_t context_length = 4096;   // tokens of one sequence, prompt and answer together
  std::vector<TokenId> eos_token_ids{};
  Duration ageing = std::chrono::seconds(10);  // waiting this long is worth one level of priority
  // For the benchmark comparison only: nobody is admitted until all of the batch have finished; with
  // keep_finished_rows their rows are still computed until then.
  bool static_batching = false;
  bool keep_finished_rows = false;
};

struct SchedulerStats {
  int32_t running = 0;  // sequences
  int32_t waiting = 0;  // sequences: requests not admitted yet, and preempted ones
  int64_t steps = 0;
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;          // of admitted requests
  int64_t cached_prompt_tokens = 0;   // of these, found in the cache
  int64_t computed_tokens = 0;        // rows computed
  int64_t recomputed_tokens = 0;      // of these, computed before and lost in a preemption
  int64_t generated_tokens = 0;       // tokens drawn and kept
  std::array<int64_t, 6> finished{};  // choices, by FinishReason
  int32_t step_tokens = 0;            // of the last step: rows
  int32_t step_sequences = 0;
  int32_t step_decodes = 0;
};

struct SchedulerHooks {
  // Why things happen. May be empty: then a decision costs one branch.
  std::function<void(const TraceEvent&)> trace;
  // A request left the waiting state (admitted, rejected or ended), once: its place in the door's queue is free again.
  std::function<void(int64_t num_prompt_tokens)> left_waiting;
};

class Scheduler {
 public:
  // `cache` and `sink` outlive the scheduler.
  Scheduler(SchedulerOptions options, ActivationCache& cache, TokenSink& sink, SchedulerHooks hooks = {});
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // A request that can never fit ends at once with RESOURCE_EXHAUSTED (memory) or INVALID_ARGUMENT (context).
  void submit(Request request, TimePoint now);
  // All choices end with kCancelled; pages are free for the next plan. Unknown or finished requests are ignored.
  void cancel(RequestId request);
  // The end of the server: all requests, waiting or running, end with kError and this reason.
  void cancel_all(const Status& reason);
  // A stop string ended the choice after `num_tokens` generated tokens; what lies beyond is dropped.
  void finish(RequestId request, int32_t choice, int32_t num_tokens);

  // What to compute now. Empty when there is nothing; then no commit() follows. Valid until the next plan().
  const StepPlan& plan(TimePoint now);
  // What came of it. results[i] answers work[i] of the last plan.
  void commit(StepResult result, TimePoint now);

  bool idle() const { return requests_.empty(); }
  TimePoint next_deadline() const;  // not later than the first one of all requests; kNever when there is none
  const SchedulerStats& stats() const { return stats_; }

  // Aborts when a counter, a queue or the cache disagree. Linear in what is stored: for tests and debug builds.
  void check_invariants() const;

 private:
  struct Order {
    bool operator()(const Sequence* a, const Sequence* b) const;
  };
  struct Deadline {
    TimePoint when;
    RequestId request;
    bool operator>(const Deadline& other) const { return when > other.when; }
  };

  // requests (scheduler.cc)
  Status find_reason_to_reject(const Request& request) const;
  void reject(const Request& request, const Status& reason);
  void end_request(RequestState& state, FinishReason reason, const Status& error);
  void end(Sequence& sequence, FinishReason reason, TokenEvent event);
  void close_choice(RequestState& state, FinishReason reason, TokenEvent event, const Sequence* sequence);
  void leave_waiting(RequestState& state);
  void sweep_finished();
  void drop_finished();
  void update_counts();
  bool keeps_finished_rows() const { return options_.static_batching && options_.keep_finished_rows; }
  int32_t num_slots_taken() const { return static_cast<int32_t>(running_.size()) + num_unforked_; }
  void trace(TraceKind kind, RequestId request, int32_t choice, int64_t amount, const char* why) const;

  // plan (step_plan.cc)
  void expire_deadlines(TimePoint now);
  void plan_decodes();
  void plan_prefills(int32_t& budget);
  void plan_finished_rows();
  void admit(int32_t& budget, TimePoint now);
  bool admit_one(Sequence& sequence, TimePoint now);
  MatchResult match(const Sequence& sequence, bool allow_exact);
  bool admit_match(Sequence& sequence, MatchResult& found);
  bool reserve_or_preempt(Sequence& needy, const Sequence& oldest);
  void preempt(Sequence& victim, const Sequence& needy);
  void fork_choices(Sequence& first);
  void add_running(Sequence& sequence, Lease lease, int32_t num_cached);
  void add_decode(Sequence& sequence);
  void add_chunk(Sequence& sequence, int32_t& budget);
  SequenceWork& add_work(Sequence& sequence, int32_t begin, int32_t end, TokenRole role);

  // commit (step_commit.cc)
  void commit_work(Sequence& sequence, const SequenceWork& work, WorkResult& result, TimePoint now);
  void commit_prompt_end(Sequence& sequence, WorkResult& result);
  void commit_prompt_logprobs(RequestState& state, const SequenceWork& work, WorkResult& result);
  void commit_token(Sequence& sequence, WorkResult& result, TimePoint now);
  void end_in_dead_end(Sequence& sequence, const WorkResult& result);
  void fail_step(const Status& status);

  const SchedulerOptions options_;
  const int32_t max_length_;  // of a sequence: the context, or all of the memory if that is less
  ActivationCache& cache_;
  TokenSink& sink_;
  const SchedulerHooks hooks_;

  std::unordered_map<RequestId, std::unique_ptr<RequestState>> requests_;
  std::set<Sequence*, Order> waiting_;
  std::vector<Sequence*> running_;  // in Order
  int32_t num_unforked_ = 0;        // choices that running prompts will fork into: their slots are taken already
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;  // may hold requests that are gone
  // The head of the queue did not fit when so many pages were to be had: no use in trying again before there are more.
  const Sequence* blocked_ = nullptr;
  int32_t blocked_pages_ = 0;

  StepPlan plan_;
  std::vector<Sequence*> planned_;  // planned_[i] is the sequence of plan_.work[i]
  bool in_flight_ = false;
  std::vector<Sequence*> finished_;  // ended, their pages not yet given back
  uint64_t next_sequence_ = 1;
  uint64_t next_admission_ = 1;
  SchedulerStats stats_;
};

}  // namespace sluice
