#include "app/bench/core_run.h"

#include <algorithm>

namespace sluice {

namespace {

TimePoint now() { return std::chrono::steady_clock::now(); }

}  // namespace

CoreRun::CoreRun(LoadedModel& loaded, const SchedulerOptions& scheduler, const CacheOptions& cache)
    : cache_(cache),
      scheduler_(scheduler, cache_, *this),
      executor_(*loaded.model, loaded.context(), cache.num_pages) {}

void CoreRun::emit(TokenEvent event) {
  CoreAnswer& answer = result_.answers[value(event.request)];
  if (event.token) {
    if (answer.tokens.empty()) answer.first_token_seconds = seconds(now() - submitted_[value(event.request)]);
    answer.tokens.push_back(*event.token);
  }
  if (event.finish == FinishReason::kNone) return;
  answer.usage = event.usage;
  answer.error = event.error;
  num_ended_ += 1;
}

void CoreRun::step() {
  const StepPlan& plan = scheduler_.plan(now());
  if (plan.empty()) return;
  const bool only_decodes = std::all_of(plan.work.begin(), plan.work.end(),
                                        [](const SequenceWork& work) { return work.role == TokenRole::kGenerated; });
  const TimePoint begin = now();
  StepResult done = executor_.run(plan);
  const double took = seconds(now() - begin);
  result_.model_seconds += took;
  result_.rows += plan.num_tokens();
  if (only_decodes) {
    result_.decode_seconds += took;
    result_.decode_steps += 1;
  }
  scheduler_.commit(std::move(done), now());
}

CoreRunResult CoreRun::run(std::vector<Request> requests, size_t in_flight) {
  result_ = {};
  result_.answers.resize(requests.size());
  submitted_.resize(requests.size());
  num_ended_ = 0;
  size_t next = 0;
  const TimePoint begin = now();
  while (num_ended_ < requests.size()) {
    for (; next < requests.size() && next - num_ended_ < in_flight; ++next) {
      requests[next].id = RequestId{next};
      requests[next].arrival = submitted_[next] = now();
      scheduler_.submit(std::move(requests[next]), submitted_[next]);
    }
    step();
  }
  result_.wall_seconds = seconds(now() - begin);
  result_.scheduler = scheduler_.stats();
  result_.cache = cache_.stats();
  return std::move(result_);
}

}  // namespace sluice
