#include "app/serving_core.h"

#include "app/model_fingerprint.h"

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

CacheOptions cache_options(const LoadedModel& loaded, const Options& options) {
  const KvLayout layout = loaded.kv_layout();
  const int64_t page_bytes = layout.bytes_per_page();
  return {.num_pages = loaded.num_pages,
          .enabled = options.cache_enabled,
          .rewindable = layout.rewindable(),
          .reuse_generated = options.cache_reuse_generated,
          .num_host_pages = static_cast<int32_t>((options.cache_host_mib << 20) / page_bytes),
          .page_bytes = page_bytes};
}

}  // namespace

ServingCore::ServingCore(LoadedModel& loaded, const Options& options, TokenSink& sink, SchedulerHooks hooks)
    : loaded_(loaded),
      cache_(cache_options(loaded, options)),
      scheduler_(scheduler_options(loaded, options), cache_, sink, std::move(hooks)),
      on_cpu_(loaded.gpu ? nullptr
                         : std::make_unique<Executor>(*loaded.model, loaded.context(), loaded.num_pages)),
      executor_(loaded.gpu ? loaded.gpu->executor() : *on_cpu_) {}

Status ServingCore::open_disk(const Options& options) {
  if (options.cache_disk.empty()) return {};
  // What a token attended to is in the latents of every layer behind the first.
  std::string bits = loaded_.info.weights;
  if (const auto& mode = loaded_.config.block_global)
    bits += fmt::format(" block_global {} {} {} {}", mode->pages, mode->sink_pages, mode->window_pages, mode->full_every);
  if (loaded_.gpu && loaded_.gpu->host_layers() > 0) bits += fmt::format(" experts on cpu:{}", loaded_.gpu->host_layers());
  if (options.tp > 1) bits += fmt::format(" tp {} {}", options.tp, options.parallel_experts);  // sums in another order
  SLUICE_ASSIGN_OR_RETURN(const uint64_t model_hash,
                          model_fingerprint(loaded_.directory, bits, options.random_weights));
  const KvLayout layout = loaded_.kv_layout();
  return cache_.open_disk({.folder = options.cache_disk,
                           .max_bytes = options.cache_disk_mib << 20,
                           .page_bytes = layout.bytes_per_page(),
                           .model_hash = model_hash,
                           .layout_hash = layout_fingerprint(layout, name(loaded_.kv_dtype()))});
}

bool ServingCore::step() {
  const StepPlan& plan = scheduler_.plan(clock_.now());
  if (plan.empty()) return false;
  StepResult result = executor_.run(plan);
  scheduler_.commit(std::move(result), clock_.now());  // the time after the step, not before
#ifndef NDEBUG
  scheduler_.check_invariants();
  cache_.check_invariants();
#endif
  return true;
}

}  // namespace sluice
