// The experts of one MoE layer of DeepSeek-V2-Lite, bf16 and int4: gate and up [2816, 2048], down [2048, 1408]. 1 to 8
// rows per expert are decode of up to 80 sequences (bound by reading), 16 and 64 prompt chunks of about 170 and 680
// tokens.
#include <algorithm>

#include "sluice/quantize.h"

#include "benchmarks/kernels/kernel_bench.h"

namespace sluice {
namespace {

constexpr int64_t kExperts = 64;

void grouped_bench(benchmark::State& state, WeightFormat format, int64_t outputs, int64_t inputs) {
  const int64_t rows_each = state.range(0), rows = kExperts * rows_each;
  const auto threads = static_cast<int>(state.range(1));
  const int64_t bytes = weight_bytes(format, outputs, inputs) * kExperts;
  const WeightRing ring(format, outputs, inputs, bytes);
  BenchContext context(threads);
  std::vector<int32_t> offsets, row_ids;
  for (int64_t e = 0; e <= kExperts; ++e) offsets.push_back(static_cast<int32_t>(e * rows_each));
  // Six slots a token: neighbours in the sorted order come from rows far apart.
  const int64_t tokens = (rows + 5) / 6;
  for (int64_t r = 0; r < rows; ++r) row_ids.push_back(static_cast<int32_t>(r * 7919 % tokens));
  const std::vector<float> x = bench_values(tokens * inputs, 1, 1);
  std::vector<float> y(static_cast<size_t>(rows * outputs)), alone(static_cast<size_t>(outputs));
  const GroupedMatmulArgs args{.x = x.data(),
                               .row_ids = row_ids.data(),
                               .x_stride = inputs,
                               .offsets = offsets,
                               .weights = std::span(ring.all()).first(kExperts),
                               .y = y.data(),
                               .y_stride = outputs};
  bench_backend().grouped_matmul(args, context.op);
  bench_backend().matmul({.x = x.data() + row_ids.back() * inputs,
                          .rows = 1,
                          .x_stride = inputs,
                          .weight = ring.all().back(),
                          .y = alone.data(),
                          .y_stride = outputs},
                         context.op);
  if (!std::equal(alone.begin(), alone.end(), y.end() - outputs)) {
    state.SkipWithError("the last row differs from its product alone");
    return;
  }
  const Meter meter;
  for (auto _ : state) {
    bench_backend().grouped_matmul(args, context.op);
    benchmark::ClobberMemory();
  }
  meter.report(state, threads, static_cast<double>(bytes), 2.0 * static_cast<double>(rows * outputs * inputs),
               is_quantized(format) ? int8_rate : fma_rate, is_quantized(format) ? "int8" : "fma");
}

void rows_and_threads(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"rows_per_expert", "threads"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (int threads : {1, 2})
    for (int rows : {1, 2, 4, 8, 16, 64}) bench->Args({rows, threads});
}

BENCHMARK_CAPTURE(grouped_bench, gate_up, WeightFormat::kBF16, 2816, 2048)
    ->Name("experts/gate_up/bf16")
    ->Apply(rows_and_threads);
BENCHMARK_CAPTURE(grouped_bench, down, WeightFormat::kBF16, 2048, 1408)
    ->Name("experts/down/bf16")
    ->Apply(rows_and_threads);
BENCHMARK_CAPTURE(grouped_bench, gate_up_int4, WeightFormat::kInt4G32, 2816, 2048)
    ->Name("experts/gate_up/int4-g32")
    ->Apply(rows_and_threads);
BENCHMARK_CAPTURE(grouped_bench, down_int4, WeightFormat::kInt4G32, 2048, 1408)
    ->Name("experts/down/int4-g32")
    ->Apply(rows_and_threads);

}  // namespace
}  // namespace sluice
