// Dense products of DeepSeek-V2-Lite: one row (decode; bound by reading the weights), 16 rows (decode of 16 sequences) and
// 512 rows (a prompt; bound by multiply-adds).
#include <cmath>

#include "sluice/quantize.h"

#include "benchmarks/kernels/kernel_bench.h"

namespace sluice {
namespace {

constexpr int64_t kRingBytes = int64_t{512} << 20;

// The sum that defines the bits (DESIGN.md), for the last output of the last row: an fma chain, or integer sums of
// groups folded in ascending order (sluice/quantize.h).
float expected(const MatmulArgs& args, const std::vector<float>& source) {
  const Weight& w = args.weight;
  const float* x = args.x + (args.rows - 1) * args.x_stride;
  const float* weights = source.data() + (w.rows - 1) * w.cols;
  float want = 0;
  if (!is_quantized(w.format)) {
    for (int64_t k = 0; k < w.cols; ++k)
      want = std::fma(x[k], w.format == WeightFormat::kF32 ? weights[k] : bf16_to_f32(f32_to_bf16(weights[k])), want);
    return want;
  }
  const int32_t group = group_size(w.format, w.cols);
  std::vector<int8_t> weight_codes(static_cast<size_t>(group)), codes(static_cast<size_t>(group));
  for (int64_t k = 0; k < w.cols; k += group) {
    const float weight_scale = quantize_weights(weights + k, group, code_bits(w.format), weight_codes.data());
    const float scale = quantize_activations(x + k, group, codes.data());
    int32_t dot = 0;
    for (size_t i = 0; i < codes.size(); ++i) dot += weight_codes[i] * codes[i];
    want = std::fma(static_cast<float>(dot), weight_scale * scale, want);
  }
  return want;
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
  if (args.y[rows * outputs - 1] != expected(args, ring.source())) {
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
               2.0 * static_cast<double>(rows * outputs * inputs), is_quantized(format) ? int8_rate : fma_rate,
               is_quantized(format) ? "int8" : "fma");
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
BENCHMARK_CAPTURE(matmul_bench, gemv_int4, WeightFormat::kInt4G32, 1)->Name("gemv/int4-g32")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemv_int4_128, WeightFormat::kInt4G128, 1)->Name("gemv/int4-g128")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, rows16_int4, WeightFormat::kInt4G32, 16)->Name("gemm16/int4-g32")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_bf16, WeightFormat::kBF16, 512)->Name("gemm512/bf16")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_f32, WeightFormat::kF32, 512)->Name("gemm512/f32")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_int8, WeightFormat::kInt8, 512)->Name("gemm512/int8")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_int4, WeightFormat::kInt4G32, 512)->Name("gemm512/int4-g32")->Apply(lite_shapes);
BENCHMARK_CAPTURE(matmul_bench, gemm_int4_128, WeightFormat::kInt4G128, 512)
    ->Name("gemm512/int4-g128")
    ->Apply(lite_shapes);

}  // namespace
}  // namespace sluice
