#include "benchmarks/kernels/kernel_bench.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "kernels/registry.h"

namespace sluice {

namespace {

const Backend* chosen_backend = nullptr;

}  // namespace

const Backend& bench_backend() { return *chosen_backend; }

std::vector<float> bench_values(int64_t count, uint64_t seed, float amplitude) {
  std::vector<float> values(static_cast<size_t>(count));
  uint64_t state = seed * 2 + 1;
  for (float& value : values) {
    state = state * 6364136223846793005 + 1442695040888963407;
    value = (static_cast<float>(state >> 40) * 0x1p-23f - 1) * amplitude;
  }
  return values;
}

WeightRing::WeightRing(WeightFormat format, int64_t rows, int64_t cols, int64_t ring_bytes)
    : source_(bench_values(rows * cols, 7, 0.02f)) {
  const Backend& backend = bench_backend();
  const int64_t bytes = backend.packed_bytes(format, rows, cols);
  const int64_t stride = (bytes + 63) / 64 * 64;
  const int64_t copies = std::max<int64_t>(1, (ring_bytes + stride - 1) / stride);
  memory_ = Buffer(static_cast<size_t>(copies * stride));
  for (int64_t i = 0; i < copies; ++i) weights_.push_back({format, rows, cols, memory_.data() + i * stride});
  backend.pack(weights_.front(), 0, rows, source_.data(), memory_.data());
  for (int64_t i = 1; i < copies; ++i)
    std::memcpy(memory_.data() + i * stride, memory_.data(), static_cast<size_t>(bytes));
}

void Meter::report(benchmark::State& state, int threads, double bytes, double flops, double (*rate)(int),
                   const char* unit) const {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double billions = static_cast<double>(state.iterations()) / seconds / 1e9;
  state.counters["GB/s"] = bytes * billions;
  state.counters["GFLOP/s"] = flops * billions;
  state.counters["%read"] = bytes * billions / read_bandwidth(threads) * 100;
  if (const double bound = rate(threads); bound > 0)
    state.counters[std::string("%") + unit] = flops * billions / bound * 100;
}

}  // namespace sluice

// --device=NAME beside Google Benchmark's own flags.
int main(int argc, char** argv) {
  std::string_view device = "auto";
  constexpr std::string_view kFlag = "--device=";
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with(kFlag)) {
      device = argument.substr(kFlag.size());
    } else {
      argv[kept++] = argv[i];
    }
  }
  const auto found = sluice::find_backend(device);
  if (!found.ok()) {
    std::fprintf(stderr, "%s\n", found.status().message().c_str());
    return 1;
  }
  sluice::chosen_backend = *found;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("device", sluice::bench_backend().name);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
