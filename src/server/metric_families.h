// Builds a list of Prometheus families line by line. Owns the families; knows no value's meaning.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <utility>
#include <vector>

#include "server/request_metrics.h"

namespace sluice {

class MetricFamilies {
 public:
  using Labels = std::vector<std::pair<std::string, std::string>>;

  // Every sample carries `common` first.
  explicit MetricFamilies(Labels common) : common_(std::move(common)) {}

  // Begins a family; samples follow. A counter's name ends in _total.
  MetricFamilies& counter(std::string name, std::string help);
  MetricFamilies& gauge(std::string name, std::string help);
  MetricFamilies& sample(double value, const Labels& labels = {});
  MetricFamilies& histogram(std::string name, std::string help, const Histogram& values);

  std::vector<prometheus::MetricFamily> take() { return std::move(families_); }

 private:
  void begin(std::string name, std::string help, prometheus::MetricType type);
  prometheus::ClientMetric& add(const Labels& labels);

  const Labels common_;
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace sluice
