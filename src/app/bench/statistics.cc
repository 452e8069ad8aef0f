#include "app/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "sluice/check.h"

namespace sluice {

double percentile(std::vector<double> values, double percent) {
  SLUICE_CHECK(!values.empty(), "percentile {} of nothing", percent);
  SLUICE_CHECK(percent >= 0 && percent <= 100, "percent={}", percent);
  std::sort(values.begin(), values.end());
  const double rank = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (rank - static_cast<double>(below)) * (values[above] - values[below]);
}

double mean(const std::vector<double>& values) {
  SLUICE_CHECK(!values.empty(), "mean of nothing");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace sluice
