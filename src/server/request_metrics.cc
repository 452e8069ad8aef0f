#include "server/request_metrics.h"

#include <algorithm>
#include <utility>

namespace sluice {

namespace {

// These hold the steps of vLLM's histograms of the same names (vllm/v1/metrics/loggers.py), so that dashboards and
// alert rules made for them read ours alike, and finer ones below: cached prompts and small models take milliseconds.
std::vector<double> first_token_bounds() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
          1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
}
std::vector<double> inter_token_bounds() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
          0.4,   0.5,    0.75,  1,    2.5,   5,    7.5,   10,  20,   40,  80};
}
std::vector<double> request_bounds() {
  return {0.005, 0.01, 0.025, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5,  5,
          10,    15,   20,    30,   40,  50,  60,  120, 240, 480, 960, 1920, 7680};
}
// 1, 2, 5, 10, ... up to the longest context that models have.
std::vector<double> token_bounds() {
  std::vector<double> bounds;
  for (double power = 1; power <= 1e6; power *= 10)
    for (const double step : {1.0, 2.0, 5.0}) bounds.push_back(step * power);
  return bounds;
}

const char* reason_of(const Status& status) {
  switch (status.code()) {
    case StatusCode::kResourceExhausted:
      return "queue_full";
    case StatusCode::kUnauthenticated:
      return "unauthenticated";
    case StatusCode::kPermissionDenied:
      return "forbidden";
    case StatusCode::kUnavailable:
      return "draining";
    case StatusCode::kInvalidArgument:
    case StatusCode::kNotFound:
      return "invalid";
    case StatusCode::kFailedPrecondition:
    case StatusCode::kUnimplemented:
      return "unsupported";
    default:
      return "internal";
  }
}

}  // namespace

Histogram::Histogram(std::vector<double> upper_bounds)
    : bounds(std::move(upper_bounds)), counts(bounds.size() + 1, 0) {}

void Histogram::observe(double value) {
  ++counts[static_cast<size_t>(std::ranges::lower_bound(bounds, value) - bounds.begin())];
  sum += value;
}

uint64_t Histogram::count() const {
  uint64_t total = 0;
  for (const uint64_t bucket : counts) total += bucket;
  return total;
}

RequestHistograms::RequestHistograms()
    : first_token(first_token_bounds()),
      inter_token(inter_token_bounds()),
      end_to_end(request_bounds()),
      queue(request_bounds()),
      prefill(request_bounds()),
      decode(request_bounds()),
      prompt_tokens(token_bounds()),
      generation_tokens(token_bounds()),
      max_generation_tokens(token_bounds()) {}

void RequestMetrics::first_token(Duration since_arrival) {
  std::lock_guard lock(mutex_);
  histograms_.first_token.observe(seconds(since_arrival));
}

void RequestMetrics::inter_token(Duration gap) {
  std::lock_guard lock(mutex_);
  histograms_.inter_token.observe(seconds(gap));
}

void RequestMetrics::ended(const GenerationEnd& end, int32_t longest_choice) {
  std::lock_guard lock(mutex_);
  const Usage& usage = end.usage;
  if (usage.completion_tokens == 0) {
    // Nothing was drawn: a prompt that can never fit was refused late, the rest was given up while it waited.
    const StatusCode code = end.status.code();
    if (code == StatusCode::kResourceExhausted || code == StatusCode::kInvalidArgument) ++rejections_["too_large"];
    return;
  }
  histograms_.end_to_end.observe(seconds(end.total_time));
  histograms_.queue.observe(seconds(usage.queue_time));
  histograms_.prefill.observe(seconds(usage.prefill_time));
  histograms_.decode.observe(seconds(usage.decode_time));
  histograms_.prompt_tokens.observe(usage.prompt_tokens);
  histograms_.generation_tokens.observe(usage.completion_tokens);
  histograms_.max_generation_tokens.observe(longest_choice);
}

void RequestMetrics::cut(const GenerationEnd& end) {
  if (end.usage.completion_tokens == 0) return;  // as with those that were given up while they waited
  std::lock_guard lock(mutex_);
  histograms_.end_to_end.observe(seconds(end.total_time));
  histograms_.prompt_tokens.observe(end.usage.prompt_tokens);
  histograms_.generation_tokens.observe(end.usage.completion_tokens);
}

void RequestMetrics::rejected(const Status& why) {
  std::lock_guard lock(mutex_);
  ++rejections_[reason_of(why)];
}

void RequestMetrics::rejected(Rejection why) {
  constexpr const char* kNames[] = {"unauthenticated", "forbidden", "client_limit", "rate_limit"};
  std::lock_guard lock(mutex_);
  ++rejections_[kNames[static_cast<size_t>(why)]];
}

RequestHistograms RequestMetrics::histograms() const {
  std::lock_guard lock(mutex_);
  return histograms_;
}

std::map<std::string, int64_t> RequestMetrics::rejections() const {
  std::lock_guard lock(mutex_);
  return rejections_;
}

}  // namespace sluice
