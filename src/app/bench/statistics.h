// What is said of many measured values in few numbers. Pure functions.
#pragma once

#include <vector>

namespace sluice {

// The value below which `percent` of the values lie, [0, 100]: linear between the two nearest ranks, as numpy does it.
// Not empty.
double percentile(std::vector<double> values, double percent);

inline double median(std::vector<double> values) { return percentile(std::move(values), 50); }

double mean(const std::vector<double>& values);  // not empty

}  // namespace sluice
