#include "app/loop_report.h"

namespace sluice {

namespace {

std::vector<std::pair<const char*, int64_t>> finished_by_reason(const SchedulerStats& stats) {
  std::vector<std::pair<const char*, int64_t>> result;
  for (const FinishReason reason : {FinishReason::kStop, FinishReason::kLength, FinishReason::kCancelled,
                                    FinishReason::kDeadline, FinishReason::kError})
    result.emplace_back(name(reason), stats.finished[static_cast<size_t>(reason)]);
  return result;
}

std::vector<TierReport> tiers_of(const LoopSnapshot& snapshot) {
  const CacheStats& cache = snapshot.cache;
  std::vector<TierReport> tiers = {{.name = "device",
                                    .pages_total = snapshot.pages_total,
                                    .pages_cached = snapshot.pages_cached,
                                    .hit_tokens = cache.hit_tokens - cache.hit_tokens_host,
                                    .evicted_pages = cache.evicted_pages}};
  if (snapshot.host_pages_total > 0)
    tiers.push_back({.name = "host",
                     .pages_total = snapshot.host_pages_total,
                     .pages_cached = snapshot.host_pages_cached,
                     .hit_tokens = cache.hit_tokens_host,
                     .evicted_pages = cache.host_evicted_pages});
  return tiers;
}

}  // namespace

LoopReport report_of(const LoopSnapshot& snapshot, const LoadedModel& loaded, const Options& options) {
  const SchedulerStats& scheduler = snapshot.scheduler;
  const CacheStats& cache = snapshot.cache;
  const StepTimes& times = snapshot.times;
  return {.running_sequences = scheduler.running,
          .cache_pages_total = snapshot.pages_total,
          .cache_pages_used = snapshot.pages_used,
          .cache_pages_cached = snapshot.pages_cached,
          .prompt_tokens = scheduler.prompt_tokens,
          .cached_prompt_tokens = scheduler.cached_prompt_tokens,
          .generated_tokens = scheduler.generated_tokens,
          .preemptions = scheduler.preemptions,
          .busy_seconds = snapshot.busy_seconds,
          .steps = scheduler.steps,
          .computed_tokens = scheduler.computed_tokens,
          .recomputed_tokens = scheduler.recomputed_tokens,
          .step_seconds = {{"forward", times.forward}, {"logits", times.logits}, {"sample", times.sample}},
          .finished = finished_by_reason(scheduler),
          .cache_queries = cache.queries,
          .cache_exact_hits = cache.exact_hits,
          .cache_query_tokens = cache.query_tokens,
          .cache_hit_tokens_generated = cache.hit_tokens_generated,
          .tiers = tiers_of(snapshot),
          .disk_saved_pages = cache.saved_pages,
          .disk_loaded_pages = cache.loaded_pages,
          .batch_tokens = scheduler.step_tokens,
          .batch_tokens_limit = options.max_batch_tokens,
          .batch_sequences = scheduler.step_sequences,
          .batch_sequences_limit = options.max_running,
          .page_tokens = kPageTokens,
          .memory_bytes = {{"weights", loaded.weight_bytes()},
                           {"cache", loaded.kv_layout().bytes_per_page() * loaded.num_pages}}};
}

ExpertReport report_of(const ExpertLoad& load) {
  return {.layers = load.layers(), .num_experts = load.num_experts(), .rows = load.rows()};
}

}  // namespace sluice
