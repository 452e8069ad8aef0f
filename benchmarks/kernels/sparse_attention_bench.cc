// What one layer of DeepSeek-V3.2 pays for its context: choosing 2,048 positions (64 index heads x 128) and attending
// them (128 heads, latents of 512), over a bf16 cache of seeded random values; one generated row, or a block of 16
// prompt rows.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "benchmarks/kernels/kernel_bench.h"

namespace sluice {
namespace {

constexpr int32_t kIndexHeads = 64, kIndexDim = 128, kTopK = 2048;
constexpr int32_t kHeads = 128, kRank = 512, kRopeDim = 64, kNopeDim = 128;
constexpr int32_t kWidth = kRank + kRopeDim;

// The last `rows` positions of a sequence of `depth`, entries of `width` values.
struct Context {
  Context(int32_t depth, int32_t rows, int32_t width) : pool(static_cast<size_t>(int64_t{depth} * width * 2)) {
    const std::vector<float> values = bench_values(int64_t{depth} * width, 3, 1);
    std::transform(values.begin(), values.end(), pool.as<uint16_t>(), f32_to_bf16);
    for (int32_t page = 0; page < depth / kPageTokens; ++page) pages.push_back(PageId{page});
    std::reverse(pages.begin(), pages.end());
    span = {0, depth - rows, depth, pages.data()};
    cache = {pool.data(), int64_t{kPageTokens} * width * 2, DType::kBF16};
  }
  Buffer pool;
  std::vector<PageId> pages;
  SequenceSpan span;
  LatentCache cache;
};

void select_bench(benchmark::State& state) {
  const auto depth = static_cast<int32_t>(state.range(0)), rows = static_cast<int32_t>(state.range(1));
  const auto threads = static_cast<int>(state.range(2));
  Context world(depth, rows, kIndexDim);
  BenchContext context(threads);
  const std::vector<float> q = bench_values(int64_t{rows} * kIndexHeads * kIndexDim, 4, 1);
  const std::vector<float> weights = bench_values(int64_t{rows} * kIndexHeads, 5, 1);
  std::vector<int32_t> positions(static_cast<size_t>(rows * kTopK), -1);
  const Meter meter;
  for (auto _ : state) {
    bench_backend().index_select({.q = q.data(),
                                  .weights = weights.data(),
                                  .sequences = {&world.span, 1},
                                  .cache = world.cache,
                                  .heads = kIndexHeads,
                                  .head_dim = kIndexDim,
                                  .top_k = kTopK,
                                  .positions = positions.data()},
                                 context.op);
    benchmark::ClobberMemory();
  }
  if (!std::is_sorted(positions.begin(), positions.begin() + kTopK) || positions[0] < 0)
    state.SkipWithError("positions are not ascending");
  meter.report(state, threads, 2.0 * depth * kIndexDim, 2.0 * rows * depth * kIndexHeads * kIndexDim);
}

void attend_bench(benchmark::State& state) {
  const auto depth = static_cast<int32_t>(state.range(0)), rows = static_cast<int32_t>(state.range(1));
  const auto threads = static_cast<int>(state.range(2));
  Context world(depth, rows, kWidth);
  BenchContext context(threads);
  const std::vector<float> q = bench_values(int64_t{rows} * kHeads * (kNopeDim + kRopeDim), 4, 1);
  const std::vector<float> absorbed = bench_values(int64_t{rows} * kHeads * kRank, 5, 1);
  std::vector<int32_t> positions;  // every depth / top_k-th, shifted from row to row
  for (int32_t row = 0; row < rows; ++row)
    for (int32_t j = 0; j < kTopK; ++j) positions.push_back(j * (depth / kTopK) + row % (depth / kTopK));
  std::vector<float> latents(absorbed.size());
  const Meter meter;
  for (auto _ : state) {
    bench_backend().sparse_attention({.q = q.data(),
                                      .absorbed = absorbed.data(),
                                      .positions = positions.data(),
                                      .sequences = {&world.span, 1},
                                      .cache = world.cache,
                                      .heads = kHeads,
                                      .nope_dim = kNopeDim,
                                      .rope_dim = kRopeDim,
                                      .kv_lora_rank = kRank,
                                      .num_positions = kTopK,
                                      .scale = 1 / std::sqrt(192.0f),
                                      .latents = latents.data()},
                                     context.op);
    benchmark::ClobberMemory();
  }
  if (!std::isfinite(latents[0])) state.SkipWithError("latents are not finite");
  meter.report(state, threads, 2.0 * rows * kTopK * kWidth, 2.0 * rows * kTopK * kHeads * (kWidth + kRank));
}

void depths_and_rows(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"depth", "rows", "threads"})->Unit(benchmark::kMicrosecond)->UseRealTime();
  for (int threads : {1, 2})
    for (int rows : {1, 16})
      for (int depth : {4096, 16384}) bench->Args({depth, rows, threads});
}

BENCHMARK(select_bench)->Name("index_select/v32")->Apply(depths_and_rows);
BENCHMARK(attend_bench)->Name("sparse_attention/v32")->Apply(depths_and_rows);

}  // namespace
}  // namespace sluice
