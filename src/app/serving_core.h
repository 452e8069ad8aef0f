// Cache, scheduler and executor around one loaded model: what takes requests and gives events, step by step. Owns them;
// knows no threads, no sockets, no text. `generate` and `chat` step it in their own thread, `serve` in its loop thread.
#pragma once

#include "app/loaded_model.h"
#include "cache/activation_cache.h"
#include "engine/executor.h"
#include "scheduler/scheduler.h"

namespace sluice {

class ServingCore {
 public:
  // `loaded` and `sink` outlive the core.
  ServingCore(LoadedModel& loaded, const Options& options, TokenSink& sink, SchedulerHooks hooks = {});

  // Opens the disk tier if the options name one; before the first request.
  Status open_disk(const Options& options);

  // One step; false when there was nothing to do. Debug builds check the invariants of scheduler and cache after it.
  bool step();

  Scheduler& scheduler() { return scheduler_; }
  StepExecutor& executor() { return executor_; }
  ActivationCache& cache() { return cache_; }

 private:
  LoadedModel& loaded_;
  SteadyClock clock_;
  ActivationCache cache_;
  Scheduler scheduler_;
  std::unique_ptr<Executor> on_cpu_;  // none where the model is on a CUDA device, whose engine has one
  StepExecutor& executor_;
};

}  // namespace sluice
