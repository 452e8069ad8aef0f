#include "app/serving_core.h"

namespace sluice {

namespace {

SchedulerOptions scheduler_options(const LoadedModel& loaded, const Options& options) {
  SchedulerOptions result;
  result.max_batch_tokens = options.max_batch_tokens;
  result.max_running = options.max_running;
  result.context_length = loaded.info.context_length;
  result.eos_token_ids = loaded.info.eos_token_ids;
  result.static_batching = options.static_batching;
  return result;
}

}  // namespace

ServingCore::ServingCore(LoadedModel& loaded, const Options& options, TokenSink& sink, SchedulerHooks hooks)
    : cache_({.num_pages = loaded.num_pages,
              .enabled = options.cache_enabled,
              .reuse_generated = options.cache_reuse_generated}),
      scheduler_(scheduler_options(loaded, options), cache_, sink, std::move(hooks)),
      executor_(*loaded.model, loaded.context(), loaded.num_pages) {}

bool ServingCore::step() {
  const StepPlan& plan = scheduler_.plan(clock_.now());
  if (plan.empty()) return false;
  scheduler_.commit(executor_.run(plan), clock_.now());
#ifndef NDEBUG
  scheduler_.check_invariants();
  cache_.check_invariants();
#endif
  return true;
}

}  // namespace sluice
