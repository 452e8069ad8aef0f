#include "benchmarks/kernels/bounds.h"

#include <benchmark/benchmark.h>

#include <map>

#include "base/machine_bounds.h"

namespace sluice {

namespace {

const MachineBounds& bounds_of(int threads) {
  static std::map<int, MachineBounds> known;
  const auto place = known.find(threads);
  if (place != known.end()) return place->second;
  ThreadTeam team(threads);
  return known[threads] = BoundMeter(team).measure();
}

void bound_bench(benchmark::State& state) {
  const auto threads = static_cast<int>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(threads);
  state.counters["GB/s"] = read_bandwidth(threads);
  state.counters["GFLOP/s"] = fma_rate(threads);
  state.counters["int8 Gop/s"] = int8_rate(threads);
  state.counters["bf16 GFLOP/s"] = bf16_rate(threads);
}
BENCHMARK(bound_bench)->Name("bound")->ArgName("threads")->Arg(1)->Arg(2)->Iterations(1);

}  // namespace

double read_bandwidth(int threads) { return bounds_of(threads).read_gb_per_second; }
double fma_rate(int threads) { return bounds_of(threads).f32_gop_per_second; }
double int8_rate(int threads) { return bounds_of(threads).int8_gop_per_second; }
double bf16_rate(int threads) { return bounds_of(threads).bf16_gop_per_second; }

}  // namespace sluice
