// Dense products of DeepSeek-V2-Lite: one row (decode; bound by reading the weights) and 512 rows (prompt; bound by
// multiply-adds).
#include <cmath>

#include "benchmarks/kernels/kernel_bench.h"

namespace sluice {
namespace {

constexpr int64_t kRingBytes = int64_t{512} << 20;

// The fma chain that defines the bits (DESIGN.md), for the last output of the last row.
bool is_correct(const MatmulArgs& args, const std::vector<float>& source) {
  const Weight& w = args.weight;
  const float* x = args.x + (args.rows - 1) * args.x_stride;
  float want = 0;
  for (int64_t k = 0; k < w.cols; ++k) {
    const float weight = source[static_cast<size_t>((w.rows - 1) * w.cols + k)];
    want = std::fma(x[k], w.format == WeightFormat::kF32 ? weight : bf16_to_f32(f32_to_bf16(weight)), want);
  }
  return args.y[args.rows * args.y_stride - 1] == want;
}

void matmul_bench(benchmark::State& state, WeightFormat format, int64_t rows) {
  const int64_t outputs = state.range(0), inputs = state.range(1);
  const auto threads = static_cast<int>(state.range(2));
  WeightRing ring(format, outputs, inputs, kRingBytes);
  BenchContext context(threads);
  const std::vector<float> x = bench_values(rows * inputs, 1, 1);
  std::vector<float> y(static_cast<size_t>(rows * outputs));
  MatmulArgs args{
      .x = x.data(), .rows = rows, .x_stride = inputs, .weight = ring.next(), .y = y.data(), .y_stride = outputs};
  bench_backend().matmul(args, context.op);
  if (!is_correct(args, ring.source())) {
    state.SkipWithError("wrong result");
    return;
  }
  const Meter meter;
  for (auto _ : state) {
    args.weight = ring.next();
    bench_backend().matmul(args, context.op);
    benchmark::ClobberMemory();
  }
  meter.report(state, threads, static_cast<double>(weight_bytes(format, outputs, inputs)),
               2.0 * static_cast<double>(rows * outputs * inputs));
}

void lite_shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"outputs", "inputs", "threads"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (int threads : {1, 2}) {
    bench->Args({64, 2048, threads});     // router
    bench->Args({576, 2048, threads});    // kv_a
    bench->Args({3072, 2048, threads});   // q
    bench->Args({2048, 2048, threads});   // o
    bench->Args({5632, 2048, threads});   // shared experts, gate and up
    bench->Args({2048, 2816, threads});   // shared experts, down
    bench->Args({21888, 2048, threads});  // dense layer, gate and up
  }
}

BENCHMARK_CAPTURE(matmul_bench, gemv_bf16, WeightFormat::kBF16, 1)->Name("gemv/bf16")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemv_f32, WeightFormat::kF32, 1)->Name("gemv/f32")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_bf16, WeightFormat::kBF16, 512)->Name("gemm512/bf16")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_f32, WeightFormat::kF32, 512)->Name("gemm512/f32")->Apply(lite_shapes);

}  // namespace
}  // namespace sluice
