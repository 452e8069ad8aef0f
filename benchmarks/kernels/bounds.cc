#include "benchmarks/kernels/bounds.h"

#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>

#include "sluice/tensor.h"
#include "sluice/thread_team.h"

namespace sluice {

namespace {

// Twice the L3 of the CPU this was written on (480 MiB): what the L3 keeps of the last pass, which it evicts in about
// the order of reading, hardly shows.
constexpr int64_t kBufferBytes = int64_t{1} << 30;
constexpr int64_t kBlockBytes = int64_t{1} << 20;
constexpr int kPasses = 5;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

__attribute__((target("avx2"))) void read_block(const std::byte* block) {
  const auto* p = reinterpret_cast<const __m256i*>(block);
  __m256i folded[8] = {};
  for (int64_t i = 0; i < kBlockBytes / 32; i += 8)
    for (int j = 0; j < 8; ++j) folded[j] = _mm256_xor_si256(folded[j], _mm256_load_si256(p + i + j));
  for (const __m256i& one : folded) benchmark::DoNotOptimize(one);
}

// Chains: at least ports x latency = 2 x 4 on current x86 cores.
constexpr int kChains = 12;
constexpr int64_t kSteps = 4'000'000;

__attribute__((target("avx512f"))) void fma_chains_avx512() {
  __m512 acc[kChains] = {};
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  benchmark::DoNotOptimize(a);
  benchmark::DoNotOptimize(b);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_fmadd_ps(acc[j], a, b);
  for (const __m512& one : acc) benchmark::DoNotOptimize(one);
}

__attribute__((target("avx2,fma"))) void fma_chains_avx2() {
  __m256 acc[kChains] = {};
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  benchmark::DoNotOptimize(a);
  benchmark::DoNotOptimize(b);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = _mm256_fmadd_ps(acc[j], a, b);
  for (const __m256& one : acc) benchmark::DoNotOptimize(one);
}

__attribute__((target("avx512f,avx512vnni"))) void vnni_chains() {
  __m512i acc[kChains] = {};
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  benchmark::DoNotOptimize(a);
  benchmark::DoNotOptimize(b);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_dpbusd_epi32(acc[j], a, b);
  for (const __m512i& one : acc) benchmark::DoNotOptimize(one);
}

__attribute__((target("avx512f,avx512bf16"))) void bf16_chains() {
  __m512 acc[kChains] = {};
  __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi32(0x3f003f00)), b = a;
  benchmark::DoNotOptimize(a);
  benchmark::DoNotOptimize(b);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) acc[j] = _mm512_dpbf16_ps(acc[j], a, b);
  for (const __m512& one : acc) benchmark::DoNotOptimize(one);
}

// `chains` runs kSteps rounds of kChains instructions that do `operations` each.
double measure_arithmetic(int threads, double operations, void (*chains)()) {
  ThreadTeam team(threads);
  // Many pieces, so that the threads finish together.
  constexpr int64_t kPieces = 8;
  const double total = static_cast<double>(kPieces) * kSteps * kChains * operations;
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    team.parallel_for(kPieces, 1, [&](int64_t, int64_t, int) { chains(); });
    best = std::max(best, total / seconds_since(start) / 1e9);
  }
  return best;
}

double measure_read(int threads) {
  static Buffer buffer = [] {
    Buffer fresh(static_cast<size_t>(kBufferBytes));
    std::memset(fresh.data(), 1, fresh.size());
    return fresh;
  }();
  ThreadTeam team(threads);
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    team.parallel_for(kBufferBytes / kBlockBytes, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t block = begin; block < end; ++block) read_block(buffer.data() + block * kBlockBytes);
    });
    best = std::max(best, static_cast<double>(kBufferBytes) / seconds_since(start) / 1e9);
  }
  return best;
}

void bound_bench(benchmark::State& state) {
  const auto threads = static_cast<int>(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(threads);
  state.counters["GB/s"] = read_bandwidth(threads);
  state.counters["GFLOP/s"] = fma_rate(threads);
  state.counters["VNNI Gop/s"] = vnni_rate(threads);
  state.counters["BF16 GFLOP/s"] = bf16_rate(threads);
}
BENCHMARK(bound_bench)->Name("bound")->ArgName("threads")->Arg(1)->Arg(2)->Iterations(1);

}  // namespace

double read_bandwidth(int threads) {
  static std::map<int, double> known;
  if (!known.contains(threads)) known[threads] = measure_read(threads);
  return known[threads];
}

double fma_rate(int threads) {
  static std::map<int, double> known;
  if (!known.contains(threads))
    known[threads] = __builtin_cpu_supports("avx512f") ? measure_arithmetic(threads, 16 * 2, fma_chains_avx512)
                                                       : measure_arithmetic(threads, 8 * 2, fma_chains_avx2);
  return known[threads];
}

double vnni_rate(int threads) {
  static std::map<int, double> known;
  if (!known.contains(threads))
    known[threads] = __builtin_cpu_supports("avx512vnni") ? measure_arithmetic(threads, 64 * 2, vnni_chains) : 0;
  return known[threads];
}

double bf16_rate(int threads) {
  static std::map<int, double> known;
  if (!known.contains(threads))
    known[threads] = __builtin_cpu_supports("avx512bf16") ? measure_arithmetic(threads, 32 * 2, bf16_chains) : 0;
  return known[threads];
}

}  // namespace sluice
