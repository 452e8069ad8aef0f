// A list of requests through cache, scheduler and engine in the caller's thread, as fast as they go, with a fixed
// number of them in flight: what `bench batching` and `bench cache` measure. Owns the three; the model is lent.
#pragma once

#include <unordered_map>
#include <vector>

#include "app/loaded_model.h"
#include "cache/activation_cache.h"
#include "engine/executor.h"
#include "scheduler/scheduler.h"

namespace sluice {

struct CoreAnswer {
  std::vector<TokenId> tokens;
  Usage usage;
  double first_token_seconds = 0;  // since it was submitted
  Status error;
};

struct CoreRunResult {
  std::vector<CoreAnswer> answers;  // of request i
  double wall_seconds = 0;
  double model_seconds = 0;   // of these, inside the executor
  double decode_seconds = 0;  // inside the executor in steps that only decode
  int64_t decode_steps = 0;   // such steps
  int64_t rows = 0;           // that the model was given, those of ended answers included
  SchedulerStats scheduler;
  CacheStats cache;
};

class CoreRun final : public TokenSink {
 public:
  CoreRun(LoadedModel& loaded, const SchedulerOptions& scheduler, const CacheOptions& cache);

  // Request i gets id i. The next one is submitted when fewer than `in_flight` have not ended.
  CoreRunResult run(std::vector<Request> requests, size_t in_flight);

 private:
  void emit(TokenEvent event) override;
  void step();

  ActivationCache cache_;
  Scheduler scheduler_;
  Executor executor_;
  CoreRunResult result_;
  std::vector<TimePoint> submitted_;
  size_t num_ended_ = 0;
};

}  // namespace sluice
