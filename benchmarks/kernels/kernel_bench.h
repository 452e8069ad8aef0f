// What the kernel benches share: the backend under test, weights larger than the caches, and the counters.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <vector>

#include "sluice/ops.h"

#include "benchmarks/kernels/bounds.h"

namespace sluice {

// Chosen by --device=NAME in main.cc before any bench runs.
const Backend& bench_backend();

std::vector<float> bench_values(int64_t count, uint64_t seed, float amplitude);

// Several copies of one packed weight, to be used in turn: a decode step streams each weight once per token, so a copy
// that is still in cache from the last iteration would flatter.
class WeightRing {
 public:
  // Enough copies for `ring_bytes`; at least one.
  WeightRing(WeightFormat format, int64_t rows, int64_t cols, int64_t ring_bytes);
  const Weight& next() { return weights_[next_++ % weights_.size()]; }
  const std::vector<Weight>& all() const { return weights_; }
  const std::vector<float>& source() const { return source_; }

 private:
  std::vector<float> source_;
  Buffer memory_;
  std::vector<Weight> weights_;
  size_t next_ = 0;
};

struct BenchContext {
  explicit BenchContext(int threads) : team(threads) {}
  ThreadTeam team;
  Scratch scratch;
  OpContext op{team, scratch};
};

// Started just before the loop, asked right behind it: rates from one iteration's work, beside their bounds for this
// team size. (Google Benchmark's own rate counters would print a share as "64/s".)
class Meter {
 public:
  // `rate` is the arithmetic that bounds the kernel; its share is printed as "%" and `unit`.
  void report(benchmark::State& state, int threads, double bytes, double flops, double (*rate)(int) = fma_rate,
              const char* unit = "fma") const;

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace sluice
