#include "app/bench/distribution.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

namespace sluice {

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<double> zipf_weights(int32_t count, double exponent) {
  std::vector<double> weights;
  for (int32_t rank = 1; rank <= count; ++rank) weights.push_back(std::pow(rank, -exponent));
  return weights;
}

}  // namespace

Result<LengthDistribution> LengthDistribution::parse(const std::string& text) {
  const Status wrong = invalid_argument(
      "length: expected N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA:LOW:HIGH with 1 <= LOW <= HIGH, found '{}'",
      text);
  std::vector<std::string> parts = split(text, ':');
  std::string kind = "fixed";
  if (parts.size() > 1) {
    kind = parts[0];
    parts.erase(parts.begin());
  }
  std::vector<double> values;
  for (const std::string& part : parts) {
    size_t used = 0;
    try {
      values.push_back(std::stod(part, &used));
    } catch (const std::logic_error&) {
      return wrong;
    }
    if (used != part.size() || !(values.back() > 0) || values.back() > 1e9) return wrong;
  }
  LengthDistribution result;
  if (kind == "lognormal" && values.size() == 4) {
    result.median_ = values[0];
    result.sigma_ = values[1];
  } else if (!(kind == "uniform" && values.size() == 2) && !(kind == "fixed" && values.size() == 1)) {
    return wrong;
  }
  result.low_ = static_cast<int32_t>(values[values.size() == 1 ? 0 : values.size() - 2]);
  result.high_ = static_cast<int32_t>(values.back());
  if (result.low_ < 1 || result.low_ > result.high_) return wrong;
  return result;
}

int32_t LengthDistribution::draw(std::mt19937_64& random) const {
  if (sigma_ == 0) return std::uniform_int_distribution<int32_t>(low_, high_)(random);
  const double value = std::lognormal_distribution<double>(std::log(median_), sigma_)(random);
  return static_cast<int32_t>(std::clamp<double>(std::round(value), low_, high_));
}

ZipfDistribution::ZipfDistribution(int32_t count, double exponent) {
  const std::vector<double> weights = zipf_weights(count, exponent);
  ranks_ = std::discrete_distribution<int32_t>(weights.begin(), weights.end());
}

}  // namespace sluice
