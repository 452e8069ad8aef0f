#include "base/machine_bounds.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>

#include "sluice/clock.h"

namespace sluice {

namespace {

// Larger than the last-level cache of any machine this is likely to run on (the largest today hold 384 MiB a socket).
constexpr int64_t kBufferBytes = int64_t{1} << 29;
constexpr int64_t kBlockBytes = int64_t{1} << 20;
constexpr int kPasses = 5;
// Independent chains of dependent operations: at least ports x latency = 2 x 4 on current x86 cores.
constexpr int kChains = 12;
constexpr int64_t kSteps = 2'000'000;
// Pieces of arithmetic, so that the threads finish together.
constexpr int64_t kPieces = 8;

// The compiler knows nothing of the values from here on: neither that all chains are equal nor that nobody reads them.
template <typename Vectors>
__attribute__((always_inline)) inline void hide(Vectors& vectors) {
  for (auto& vector : vectors) asm volatile("" : "+m"(vector));
}

__attribute__((target("avx2"))) void read_block(const std::byte* block) {
  const auto* p = reinterpret_cast<const __m256i*>(block);
  __m256i folded[8] = {};
  for (int64_t i = 0; i < kBlockBytes / 32; i += 8)
    for (int j = 0; j < 8; ++j) folded[j] = _mm256_xor_si256(folded[j], _mm256_load_si256(p + i + j));
  hide(folded);
}

__attribute__((target("avx512f"))) void fma_chains_avx512() {
  __m512 sums[kChains] = {};
  hide(sums);
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_fmadd_ps(sums[j], a, b);
  hide(sums);
}

__attribute__((target("avx2,fma"))) void fma_chains_avx2() {
  __m256 sums[kChains] = {};
  hide(sums);
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f);
  asm volatile("" : "+x"(a), "+x"(b));
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm256_fmadd_ps(sums[j], a, b);
  hide(sums);
}

__attribute__((target("avx512f,avx512vnni"))) void vnni_chains() {
  __m512i sums[kChains] = {};
  hide(sums);
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-2);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_dpbusd_epi32(sums[j], a, b);
  hide(sums);
}

__attribute__((target("avx512f,avx512bf16"))) void bf16_chains() {
  __m512 sums[kChains] = {};
  hide(sums);
  __m512i one = _mm512_set1_epi32(0x3f003f00);
  asm volatile("" : "+v"(one));
  const __m512bh pairs = reinterpret_cast<__m512bh>(one);
  for (int64_t i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) sums[j] = _mm512_dpbf16_ps(sums[j], pairs, pairs);
  hide(sums);
}

// Without VNNI: products of bytes to pairs of 16 bits, pairs to 32 bits, sum.
__attribute__((target("avx2"))) void maddubs_chains() {
  __m256i sums[kChains] = {};
  hide(sums);
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(-2), ones = _mm256_set1_epi16(1);
  for (int64_t i = 0; i < kSteps; ++i) {
    asm volatile("" : "+x"(a), "+x"(b), "+x"(ones));  // else the products, being constant, leave the loop
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      __m256i pairs = _mm256_maddubs_epi16(a, b);
      asm volatile("" : "+x"(pairs));
      sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs, ones));
    }
  }
  hide(sums);
}

// `amount` of work per second, in units of 10^9; the best of some passes.
template <typename Work>
double best_rate(double amount, const Work& work) {
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const TimePoint begin = std::chrono::steady_clock::now();
    work();
    best = std::max(best, amount / seconds(std::chrono::steady_clock::now() - begin) / 1e9);
  }
  return best;
}

double arithmetic_rate(ThreadTeam& team, double operations_per_link, void (*chains)()) {
  const double operations = static_cast<double>(kPieces * kSteps * kChains) * operations_per_link;
  return best_rate(operations, [&] { team.parallel_for(kPieces, 1, [&](int64_t, int64_t, int) { chains(); }); });
}

}  // namespace

MachineBounds best_of(const MachineBounds& a, const MachineBounds& b) {
  return {.read_gb_per_second = std::max(a.read_gb_per_second, b.read_gb_per_second),
          .f32_gop_per_second = std::max(a.f32_gop_per_second, b.f32_gop_per_second),
          .bf16_gop_per_second = std::max(a.bf16_gop_per_second, b.bf16_gop_per_second),
          .int8_gop_per_second = std::max(a.int8_gop_per_second, b.int8_gop_per_second)};
}

BoundMeter::BoundMeter(ThreadTeam& team) : team_(team), buffer_(static_cast<size_t>(kBufferBytes)) {
  // No two lines alike: a hypervisor that merges equal pages would otherwise let reads come out of a cache.
  auto* words = buffer_.as<uint64_t>();
  for (int64_t i = 0; i < kBufferBytes / 8; ++i) words[i] = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15;
}

double BoundMeter::read_rate() {
  return best_rate(static_cast<double>(kBufferBytes), [&] {
    team_.parallel_for(kBufferBytes / kBlockBytes, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t block = begin; block < end; ++block) read_block(buffer_.data() + block * kBlockBytes);
    });
  });
}

MachineBounds BoundMeter::measure() {
  MachineBounds bounds;
  bounds.read_gb_per_second = read_rate();
  bounds.f32_gop_per_second = __builtin_cpu_supports("avx512f") ? arithmetic_rate(team_, 16 * 2, fma_chains_avx512)
                                                                : arithmetic_rate(team_, 8 * 2, fma_chains_avx2);
  if (__builtin_cpu_supports("avx512bf16")) bounds.bf16_gop_per_second = arithmetic_rate(team_, 32 * 2, bf16_chains);
  bounds.int8_gop_per_second = __builtin_cpu_supports("avx512vnni") ? arithmetic_rate(team_, 64 * 2, vnni_chains)
                                                                    : arithmetic_rate(team_, 32 * 2, maddubs_chains);
  return bounds;
}

}  // namespace sluice
