#include "server/metrics_text.h"

#include <prometheus/text_serializer.h>

#include <algorithm>

#include "server/metric_families.h"

namespace sluice {

namespace {

// Layers x experts up to which each expert has its own series: V2-Lite (26 x 64) still has, V3 (58 x 256) would make
// 15,000 of them, a megabyte per scrape. Beyond that the layers' imbalance tells.
constexpr size_t kMaxExpertSeries = 2048;

struct Scrape {
  const Services& services;
  LoopReport loop;
  RequestQueue::Load waiting;
  RequestHistograms requests;
};

double ratio(double part, double whole) { return whole > 0 ? part / whole : 0; }

int64_t total(const std::vector<std::pair<const char*, int64_t>>& values,
              std::initializer_list<std::string_view> names) {
  int64_t sum = 0;
  for (const auto& [name, value] : values)
    if (std::ranges::find(names, name) != names.end()) sum += value;
  return sum;
}

void add_requests(const Scrape& scrape, MetricFamilies& out) {
  const RequestHistograms& requests = scrape.requests;
  out.gauge("sluice_waiting_requests", "Requests that wait to be admitted.")
      .sample(static_cast<double>(scrape.waiting.waiting_requests));
  out.gauge("sluice_waiting_tokens", "Prompt tokens of the waiting requests.")
      .sample(static_cast<double>(scrape.waiting.waiting_tokens));
  out.gauge("sluice_open_answers", "Answers of calls that have not got their end.")
      .sample(static_cast<double>(scrape.services.frontend.num_open()));
  out.gauge("sluice_running_sequences", "Sequences in the batch.").sample(scrape.loop.running_sequences);
  out.counter("sluice_rejected_requests_total", "Requests turned away, by reason.");
  for (const auto& [reason, count] : scrape.services.frontend.metrics().rejections())
    out.sample(static_cast<double>(count), {{"reason", reason}});
  out.counter("sluice_finished_choices_total", "Answers that ended, by reason; a request has n of them.");
  for (const auto& [reason, count] : scrape.loop.finished) out.sample(static_cast<double>(count), {{"reason", reason}});
  out.histogram("sluice_time_to_first_token_seconds", "From a request's arrival to its first token.",
                requests.first_token);
  out.histogram("sluice_inter_token_seconds", "Between two tokens of one answer.", requests.inter_token);
  out.histogram("sluice_request_seconds", "From a request's arrival to its end.", requests.end_to_end);
  out.histogram("sluice_request_queue_seconds", "From a request's arrival to the first step that computes it.",
                requests.queue);
  out.histogram("sluice_request_prefill_seconds", "From the first step to the first token.", requests.prefill);
  out.histogram("sluice_request_decode_seconds", "From the first token to the last.", requests.decode);
  out.histogram("sluice_request_prompt_tokens", "Prompt tokens of a request.", requests.prompt_tokens);
  out.histogram("sluice_request_generated_tokens", "Generated tokens of a request, all choices together.",
                requests.generation_tokens);
}

void add_loop(const LoopReport& loop, MetricFamilies& out) {
  out.counter("sluice_prompt_tokens_total", "Prompt tokens of admitted requests.")
      .sample(static_cast<double>(loop.prompt_tokens));
  out.counter("sluice_saved_prompt_tokens_total", "Prompt tokens never computed: the cache held them.")
      .sample(static_cast<double>(loop.cached_prompt_tokens));
  out.counter("sluice_generated_tokens_total", "Tokens drawn and kept.")
      .sample(static_cast<double>(loop.generated_tokens));
  out.counter("sluice_computed_tokens_total", "Rows that went through the model.")
      .sample(static_cast<double>(loop.computed_tokens));
  out.counter("sluice_recomputed_tokens_total", "Rows computed again because a preemption lost them.")
      .sample(static_cast<double>(loop.recomputed_tokens));
  out.counter("sluice_preemptions_total", "Sequences that gave up their pages to others.")
      .sample(static_cast<double>(loop.preemptions));
  out.counter("sluice_steps_total", "Steps of the loop that computed something.")
      .sample(static_cast<double>(loop.steps));
  out.counter("sluice_step_seconds_total", "Time inside steps, by part.");
  double named = 0;
  for (const auto& [part, value] : loop.step_seconds) {
    out.sample(value, {{"part", part}});
    named += value;
  }
  out.sample(std::max(0.0, loop.busy_seconds - named), {{"part", "bookkeeping"}});
  out.gauge("sluice_batch_tokens", "Rows of the last step.").sample(loop.batch_tokens);
  out.gauge("sluice_batch_sequences", "Sequences of the last step.").sample(loop.batch_sequences);
  out.gauge("sluice_batch_occupancy_ratio", "Share of what a step may hold that the last one did, by limit.")
      .sample(ratio(loop.batch_tokens, loop.batch_tokens_limit), {{"limit", "tokens"}})
      .sample(ratio(loop.batch_sequences, loop.batch_sequences_limit), {{"limit", "sequences"}});
  out.gauge("sluice_memory_bytes", "Memory by use, as planned at the start.");
  for (const auto& [use, bytes] : loop.memory_bytes) out.sample(static_cast<double>(bytes), {{"use", use}});
}

void add_cache(const LoopReport& loop, MetricFamilies& out) {
  out.gauge("sluice_cache_used_pages", "Pages that running sequences hold.").sample(loop.cache_pages_used);
  out.gauge("sluice_cache_pages", "Pages of a tier.");
  for (const TierReport& tier : loop.tiers) out.sample(tier.pages_total, {{"tier", tier.name}});
  out.gauge("sluice_cache_cached_pages", "Pages kept for later requests.");
  for (const TierReport& tier : loop.tiers) out.sample(tier.pages_cached, {{"tier", tier.name}});
  out.counter("sluice_cache_hit_tokens_total", "Prompt tokens found in a tier.");
  for (const TierReport& tier : loop.tiers) out.sample(static_cast<double>(tier.hit_tokens), {{"tier", tier.name}});
  out.counter("sluice_cache_evicted_pages_total", "Pages that had to leave a tier.");
  for (const TierReport& tier : loop.tiers) out.sample(static_cast<double>(tier.evicted_pages), {{"tier", tier.name}});
  out.counter("sluice_cache_queries_total", "Prompts looked up.").sample(static_cast<double>(loop.cache_queries));
  out.counter("sluice_cache_exact_hits_total", "Prompts known whole: they decode at once.")
      .sample(static_cast<double>(loop.cache_exact_hits));
  out.counter("sluice_cache_query_tokens_total", "Prompt tokens looked up.")
      .sample(static_cast<double>(loop.cache_query_tokens));
  out.counter("sluice_cache_hit_tokens_generated_total", "Prompt tokens found on pages of earlier answers.")
      .sample(static_cast<double>(loop.cache_hit_tokens_generated));
  out.counter("sluice_cache_disk_saved_pages_total", "Pages handed to the disk tier.")
      .sample(static_cast<double>(loop.disk_saved_pages));
  out.counter("sluice_cache_disk_loaded_pages_total", "Pages read from the disk tier at the start.")
      .sample(static_cast<double>(loop.disk_loaded_pages));
}

void add_experts(const ExpertReport& report, MetricFamilies& out) {
  if (report.rows.empty()) return;
  const auto experts = static_cast<size_t>(report.num_experts);
  const size_t layers = report.layers.size();
  const auto layer_name = [&](size_t layer) { return std::to_string(report.layers[layer]); };
  out.gauge("sluice_expert_imbalance_ratio", "Rows of a layer's busiest expert over those of its mean one.");
  for (size_t layer = 0; layer < layers; ++layer) {
    const auto begin = report.rows.begin() + static_cast<std::ptrdiff_t>(layer * experts);
    const auto end = begin + report.num_experts;
    double sum = 0;
    for (auto place = begin; place != end; ++place) sum += static_cast<double>(*place);
    out.sample(ratio(static_cast<double>(*std::max_element(begin, end)), sum / report.num_experts),
               {{"layer", layer_name(layer)}});
  }
  if (report.rows.size() > kMaxExpertSeries) return;
  out.counter("sluice_expert_rows_total", "Rows that an expert has computed.");
  for (size_t i = 0; i < report.rows.size(); ++i)
    out.sample(static_cast<double>(report.rows[i]),
               {{"layer", layer_name(i / experts)}, {"expert", std::to_string(i % experts)}});
}

// vLLM's families (docs/design/metrics.md there), each with the label model_name that its dashboards filter by.
void add_vllm(const Scrape& scrape, MetricFamilies& out) {
  const LoopReport& loop = scrape.loop;
  const RequestHistograms& requests = scrape.requests;
  out.gauge("vllm:num_requests_running", "As sluice_running_sequences.").sample(loop.running_sequences);
  out.gauge("vllm:num_requests_waiting", "As sluice_waiting_requests.")
      .sample(static_cast<double>(scrape.waiting.waiting_requests));
  out.gauge("vllm:kv_cache_usage_perc", "Share of pages that running sequences hold, 0 to 1.")
      .sample(ratio(loop.cache_pages_used, loop.cache_pages_total));
  out.counter("vllm:prefix_cache_queries_total", "As sluice_cache_query_tokens_total.")
      .sample(static_cast<double>(loop.cache_query_tokens));
  int64_t hits = 0;
  for (const TierReport& tier : loop.tiers) hits += tier.hit_tokens;
  out.counter("vllm:prefix_cache_hits_total", "As sluice_cache_hit_tokens_total, all tiers.")
      .sample(static_cast<double>(hits));
  out.counter("vllm:num_preemptions_total", "As sluice_preemptions_total.")
      .sample(static_cast<double>(loop.preemptions));
  out.counter("vllm:prompt_tokens_total", "As sluice_prompt_tokens_total.")
      .sample(static_cast<double>(loop.prompt_tokens));
  out.counter("vllm:generation_tokens_total", "As sluice_generated_tokens_total.")
      .sample(static_cast<double>(loop.generated_tokens));
  out.counter("vllm:request_success_total", "As sluice_finished_choices_total.");
  for (const char* reason : {"stop", "length"})
    out.sample(static_cast<double>(total(loop.finished, {reason})), {{"finished_reason", reason}});
  out.sample(static_cast<double>(total(loop.finished, {"cancelled", "deadline"})), {{"finished_reason", "abort"}});
  out.sample(static_cast<double>(total(loop.finished, {"error"})), {{"finished_reason", "error"}});
  out.histogram("vllm:time_to_first_token_seconds", "As sluice_time_to_first_token_seconds.", requests.first_token);
  out.histogram("vllm:inter_token_latency_seconds", "As sluice_inter_token_seconds.", requests.inter_token);
  out.histogram("vllm:e2e_request_latency_seconds", "As sluice_request_seconds.", requests.end_to_end);
  out.histogram("vllm:request_queue_time_seconds", "As sluice_request_queue_seconds.", requests.queue);
  out.histogram("vllm:request_prefill_time_seconds", "As sluice_request_prefill_seconds.", requests.prefill);
  out.histogram("vllm:request_decode_time_seconds", "As sluice_request_decode_seconds.", requests.decode);
  out.histogram("vllm:request_prompt_tokens", "As sluice_request_prompt_tokens.", requests.prompt_tokens);
  out.histogram("vllm:request_generation_tokens", "As sluice_request_generated_tokens.", requests.generation_tokens);
  out.histogram("vllm:request_max_num_generation_tokens", "Generated tokens of a request's longest choice.",
                requests.max_generation_tokens);
  out.gauge("vllm:cache_config_info", "How the cache is cut, in the labels; the value is 1.")
      .sample(1, {{"block_size", std::to_string(loop.page_tokens)},
                  {"num_gpu_blocks", std::to_string(loop.cache_pages_total)}});
}

}  // namespace

std::string render_metrics(const Services& services) {
  const Scrape scrape{.services = services,
                      .loop = services.report ? services.report() : LoopReport{},
                      .waiting = services.queue.load(),
                      .requests = services.frontend.metrics().histograms()};
  MetricFamilies own({});
  own.gauge("sluice_build_info", "What serves, in the labels; the value is 1.")
      .sample(1, {{"version", services.version},
                  {"model", services.model.name},
                  {"weights", services.model.weights},
                  {"device", services.model.device}});
  add_requests(scrape, own);
  add_loop(scrape.loop, own);
  add_cache(scrape.loop, own);
  if (services.expert_load) add_experts(services.expert_load(), own);
  MetricFamilies vllm({{"model_name", services.model.name}});
  add_vllm(scrape, vllm);

  std::vector<prometheus::MetricFamily> families = own.take();
  std::ranges::move(vllm.take(), std::back_inserter(families));
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sluice
