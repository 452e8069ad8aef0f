// Random lengths, choices and gaps of the synthetic workloads. Each is a distribution that is drawn from with a
// generator of the caller's, so that one seed makes one workload.
#pragma once

#include <cstdint>
#include <random>
#include <string>

#include "sluice/status.h"

namespace sluice {

// Token counts, as written on a command line:
//   64 | uniform:LOW:HIGH | lognormal:MEDIAN:SIGMA:LOW:HIGH     (LOW and HIGH included; the lognormal is clipped to
//   them)
class LengthDistribution {
 public:
  // INVALID_ARGUMENT shows the forms.
  static Result<LengthDistribution> parse(const std::string& text);

  int32_t draw(std::mt19937_64& random) const;
  int32_t highest() const { return high_; }

 private:
  double median_ = 0, sigma_ = 0;  // of the lognormal; sigma 0: uniform
  int32_t low_ = 1, high_ = 1;
};

// Rank i of [0, count) with a chance proportional to 1 / (i + 1)^exponent.
class ZipfDistribution {
 public:
  ZipfDistribution(int32_t count, double exponent);
  int32_t draw(std::mt19937_64& random) { return ranks_(random); }

 private:
  std::discrete_distribution<int32_t> ranks_;
};

// Gaps between arrivals: gamma with mean 1 / rate. Burstiness 1 makes a Poisson process; less is burstier, more is more
// regular (the shape of the gamma, as in `vllm bench serve`).
class ArrivalGaps {
 public:
  ArrivalGaps(double rate, double burstiness) : gaps_(burstiness, 1 / (rate * burstiness)) {}
  double draw(std::mt19937_64& random) { return gaps_(random); }  // seconds

 private:
  std::gamma_distribution<double> gaps_;
};

}  // namespace sluice
