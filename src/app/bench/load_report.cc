#include "app/bench/load_report.h"

#include "app/bench/statistics.h"

namespace sluice {

namespace {

using Json = nlohmann::ordered_json;

Json percentiles(const std::vector<double>& milliseconds) {
  Json result = {{"p50", nullptr}, {"p90", nullptr}, {"p99", nullptr}};
  if (milliseconds.empty()) return result;
  result["p50"] = percentile(milliseconds, 50);
  result["p90"] = percentile(milliseconds, 90);
  result["p99"] = percentile(milliseconds, 99);
  return result;
}

}  // namespace

Json load_report(const std::vector<TurnRecord>& records, const Objectives& objectives, double wall_seconds,
                 double utilization) {
  std::vector<double> ttft, itl, e2e;
  int64_t prompt_tokens = 0, cached_prompt_tokens = 0, output_tokens = 0, errors = 0, good = 0;
  for (const TurnRecord& record : records) {
    if (!record.status.ok()) {
      ++errors;
      continue;
    }
    ttft.push_back(1e3 * (record.first_token - record.sent));
    e2e.push_back(1e3 * (record.last_token - record.sent));
    for (double gap : record.gaps) itl.push_back(1e3 * gap);
    good += ttft.back() <= objectives.ttft_ms && (record.gaps.empty() || 1e3 * mean(record.gaps) <= objectives.itl_ms);
    prompt_tokens += record.prompt_tokens;
    cached_prompt_tokens += record.cached_prompt_tokens;
    output_tokens += record.completion_tokens;
  }
  const auto per_second = [&](int64_t count) { return static_cast<double>(count) / wall_seconds; };
  return {{"requests", records.size()},
          {"errors", errors},
          {"seconds", wall_seconds},
          {"requests_per_second", per_second(static_cast<int64_t>(ttft.size()))},
          {"output_tokens_per_second", per_second(output_tokens)},
          {"ttft_ms", percentiles(ttft)},
          {"itl_ms", percentiles(itl)},
          {"e2e_ms", percentiles(e2e)},
          {"goodput", per_second(good)},
          {"slo", {{"ttft_ms", objectives.ttft_ms}, {"itl_ms", objectives.itl_ms}}},
          {"prompt_tokens", prompt_tokens},
          {"cached_prompt_tokens", cached_prompt_tokens},
          {"output_tokens", output_tokens},
          {"utilization", utilization}};
}

}  // namespace sluice
