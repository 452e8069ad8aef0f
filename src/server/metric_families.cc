#include "server/metric_families.h"

#include <limits>

namespace sluice {

void MetricFamilies::begin(std::string name, std::string help, prometheus::MetricType type) {
  families_.push_back({std::move(name), std::move(help), type, {}});
}

prometheus::ClientMetric& MetricFamilies::add(const Labels& labels) {
  prometheus::ClientMetric& metric = families_.back().metric.emplace_back();
  for (const Labels* part : {&common_, &labels})
    for (const auto& [name, value] : *part) metric.label.push_back({name, value});
  return metric;
}

MetricFamilies& MetricFamilies::counter(std::string name, std::string help) {
  begin(std::move(name), std::move(help), prometheus::MetricType::Counter);
  return *this;
}

MetricFamilies& MetricFamilies::gauge(std::string name, std::string help) {
  begin(std::move(name), std::move(help), prometheus::MetricType::Gauge);
  return *this;
}

MetricFamilies& MetricFamilies::sample(double value, const Labels& labels) {
  prometheus::ClientMetric& metric = add(labels);
  if (families_.back().type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return *this;
}

MetricFamilies& MetricFamilies::histogram(std::string name, std::string help, const Histogram& values) {
  begin(std::move(name), std::move(help), prometheus::MetricType::Histogram);
  prometheus::ClientMetric::Histogram& out = add({}).histogram;
  out.sample_sum = values.sum;
  for (size_t i = 0; i < values.counts.size(); ++i) {
    out.sample_count += values.counts[i];
    out.bucket.push_back(
        {out.sample_count, i < values.bounds.size() ? values.bounds[i] : std::numeric_limits<double>::infinity()});
  }
  return *this;
}

}  // namespace sluice
