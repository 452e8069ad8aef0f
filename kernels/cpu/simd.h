// Sixteen f32 lanes: one AVX-512 register or two AVX2 ones. Every operation rounds as its scalar twin does and
// reductions fold in one fixed order, so both instruction sets give the same bits.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice::cpu::SLUICE_ISA {

constexpr int kLanes = 16;

#if defined(__AVX512F__)

struct F32x16 {
  __m512 v;
};

inline F32x16 zero() { return {_mm512_setzero_ps()}; }
inline F32x16 broadcast(float value) { return {_mm512_set1_ps(value)}; }
inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
// Lanes [0, count); the rest reads as 0 and is not written.
inline __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
inline F32x16 load_first(const float* p, int64_t count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
inline void store_first(float* p, F32x16 a, int64_t count) { _mm512_mask_storeu_ps(p, first(count), a.v); }
inline F32x16 load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
inline F32x16 round_even(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a < b ? x : y
inline F32x16 if_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
// 2^n for integral n in [-126, 127]
inline F32x16 exp2_integral(F32x16 n) {
  const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}
inline F32x16 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

// Integral lanes in [-128, 127] as bytes.
inline void store_codes(int8_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

// Sixteen int32 lanes, or the same register as 64 bytes.
struct I32x16 {
  __m512i v;
};

inline I32x16 broadcast_i32(int32_t value) { return {_mm512_set1_epi32(value)}; }
inline I32x16 load_bytes(const void* p) { return {_mm512_loadu_si512(p)}; }
inline I32x16 load_u8(const void* p) {  // 16 bytes
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
}
inline I32x16 operator*(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
inline I32x16 sub_bytes(I32x16 a, I32x16 b) { return {_mm512_sub_epi8(a.v, b.v)}; }
inline I32x16 low_nibbles(I32x16 a) { return {_mm512_and_si512(a.v, _mm512_set1_epi8(15))}; }
inline I32x16 high_nibbles(I32x16 a) { return {_mm512_and_si512(_mm512_srli_epi16(a.v, 4), _mm512_set1_epi8(15))}; }
inline F32x16 to_f32(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
// acc[lane] += sum over i in [0, 4) of u[4 lane + i] * s[4 lane + i]: u unsigned, s signed bytes.
#if defined(__AVX512VNNI__)
inline I32x16 dot4(I32x16 acc, I32x16 u, I32x16 s) { return {_mm512_dpbusd_epi32(acc.v, u.v, s.v)}; }
#else
inline I32x16 dot4(I32x16 acc, I32x16 u, I32x16 s) {
  // In 16 bits even and odd bytes apart: maddubs would saturate on 8-bit weights.
  const __m512i mask = _mm512_set1_epi16(255);
  const __m512i even = _mm512_madd_epi16(_mm512_and_si512(u.v, mask), _mm512_srai_epi16(_mm512_slli_epi16(s.v, 8), 8));
  const __m512i odd = _mm512_madd_epi16(_mm512_srli_epi16(u.v, 8), _mm512_srai_epi16(s.v, 8));
  return {_mm512_add_epi32(acc.v, _mm512_add_epi32(even, odd))};
}
#endif

// Pairs of bf16: sixteen lanes of two, the first in the low half.
inline I32x16 load_half(const void* p) {  // 32 bytes; the upper lanes are zeros
  return {_mm512_zextsi256_si512(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
}
inline void store_bytes(void* p, I32x16 a) { _mm512_storeu_si512(p, a.v); }
inline F32x16 even_bf16(I32x16 a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }
inline F32x16 odd_bf16(I32x16 a) {
  return {_mm512_castsi512_ps(_mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int>(0xffff0000))))};
}
// Nearest even, in the upper half of each lane; the lower half is left over.
inline I32x16 round_bf16(F32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return {_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even)};
}
inline I32x16 pair_bf16(F32x16 first, F32x16 second) {
  const __m512i upper = _mm512_and_si512(round_bf16(second).v, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
  return {_mm512_or_si512(_mm512_srli_epi32(round_bf16(first).v, 16), upper)};
}
inline void store_bf16(uint16_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(a).v, 16)));
}
#if defined(__AVX512BF16__)
inline F32x16 dot2(F32x16 acc, I32x16 a, I32x16 b) {
  return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
}
#define SLUICE_HAS_DOT2
#endif
// a0 b0 a1 b1 ... of 16-bit elements, in each quarter of the register on its own: `low` takes the quarters' first four.
inline I32x16 interleave_low(I32x16 a, I32x16 b) { return {_mm512_unpacklo_epi16(a.v, b.v)}; }
inline I32x16 interleave_high(I32x16 a, I32x16 b) { return {_mm512_unpackhi_epi16(a.v, b.v)}; }
// Puts lanes in order that came from interleave_low and interleave_high.
inline void order_interleaved(F32x16 low, F32x16 high, F32x16* first, F32x16* second) {
  const __m512i front = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i back = _mm512_add_epi32(front, _mm512_set1_epi32(8));
  *first = {_mm512_permutex2var_ps(low.v, front, high.v)};
  *second = {_mm512_permutex2var_ps(low.v, back, high.v)};
}
inline __m256 low(F32x16 a) { return _mm512_castps512_ps256(a.v); }
inline __m256 high(F32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }

#else

struct F32x16 {
  __m256 lo, hi;
};

inline F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32x16 broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline F32x16 load_first(const float* p, int64_t count) {
  if (count == kLanes) return load(p);
  alignas(32) float lanes[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_first(float* p, F32x16 a, int64_t count) {
  if (count == kLanes) return store(p, a);
  alignas(32) float lanes[kLanes];
  store(lanes, a);
  for (int64_t i = 0; i < count; ++i) p[i] = lanes[i];
}
inline __m256 widen_bf16(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline F32x16 load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline F32x16 round_even(F32x16 a) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
}
inline F32x16 if_less(F32x16 a, F32x16 b, F32x16 x, F32x16 y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline __m256 exp2_integral(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline F32x16 exp2_integral(F32x16 n) { return {exp2_integral(n.lo), exp2_integral(n.hi)}; }
inline F32x16 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void store_codes(int8_t* p, F32x16 a) {
  // packs works within 128-bit halves; the permutation puts its quarters 0, 2, 1, 3 in order.
  const __m256i words =
      _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

struct I32x16 {
  __m256i lo, hi;
};

inline I32x16 broadcast_i32(int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
inline I32x16 load_bytes(const void* p) {
  const auto* halves = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline I32x16 load_u8(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}
inline I32x16 operator*(I32x16 a, I32x16 b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
inline I32x16 low_nibbles(I32x16 a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)};
}
inline I32x16 high_nibbles(I32x16 a) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(_mm256_srli_epi16(a.lo, 4), mask), _mm256_and_si256(_mm256_srli_epi16(a.hi, 4), mask)};
}
inline F32x16 to_f32(I32x16 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline __m256i dot4(__m256i acc, __m256i u, __m256i s) {
  // In 16 bits even and odd bytes apart: maddubs would saturate on 8-bit weights.
  const __m256i mask = _mm256_set1_epi16(255);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, mask), _mm256_srai_epi16(_mm256_slli_epi16(s, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(s, 8));
  return _mm256_add_epi32(acc, _mm256_add_epi32(even, odd));
}
inline I32x16 dot4(I32x16 acc, I32x16 u, I32x16 s) { return {dot4(acc.lo, u.lo, s.lo), dot4(acc.hi, u.hi, s.hi)}; }

inline I32x16 load_half(const void* p) {
  return {_mm256_loadu_si256(static_cast<const __m256i*>(p)), _mm256_setzero_si256()};
}
inline void store_bytes(void* p, I32x16 a) {
  auto* halves = static_cast<__m256i*>(p);
  _mm256_storeu_si256(halves, a.lo);
  _mm256_storeu_si256(halves + 1, a.hi);
}
inline F32x16 even_bf16(I32x16 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a.lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(a.hi, 16))};
}
inline F32x16 odd_bf16(I32x16 a) {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(a.lo, upper)), _mm256_castsi256_ps(_mm256_and_si256(a.hi, upper))};
}
inline __m256i round_bf16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), even);
}
inline __m256i pair_bf16(__m256 first, __m256 second) {
  const __m256i upper = _mm256_and_si256(round_bf16(second), _mm256_set1_epi32(static_cast<int>(0xffff0000)));
  return _mm256_or_si256(_mm256_srli_epi32(round_bf16(first), 16), upper);
}
inline I32x16 pair_bf16(F32x16 first, F32x16 second) {
  return {pair_bf16(first.lo, second.lo), pair_bf16(first.hi, second.hi)};
}
inline void store_bf16(uint16_t* p, F32x16 a) {
  const __m256i words =
      _mm256_packus_epi32(_mm256_srli_epi32(round_bf16(a.lo), 16), _mm256_srli_epi32(round_bf16(a.hi), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}
inline I32x16 interleave_low(I32x16 a, I32x16 b) {
  return {_mm256_unpacklo_epi16(a.lo, b.lo), _mm256_unpacklo_epi16(a.hi, b.hi)};
}
inline I32x16 interleave_high(I32x16 a, I32x16 b) {
  return {_mm256_unpackhi_epi16(a.lo, b.lo), _mm256_unpackhi_epi16(a.hi, b.hi)};
}
inline void order_interleaved(F32x16 low, F32x16 high, F32x16* first, F32x16* second) {
  *first = {_mm256_permute2f128_ps(low.lo, high.lo, 0x20), _mm256_permute2f128_ps(low.lo, high.lo, 0x31)};
  *second = {_mm256_permute2f128_ps(low.hi, high.hi, 0x20), _mm256_permute2f128_ps(low.hi, high.hi, 0x31)};
}
inline __m256 low(F32x16 a) { return a.lo; }
inline __m256 high(F32x16 a) { return a.hi; }

#endif

// (acc + a1 * b1) + a0 * b0 in each lane of bf16 pairs, rounded after each addition: what the instruction does (Intel
// SDM, VDPBF16PS; verified bit for bit on Zen 4). It takes numbers below 2^-126 as zeros, which nothing here produces.
#if !defined(SLUICE_HAS_DOT2)
inline F32x16 dot2(F32x16 acc, I32x16 a, I32x16 b) {
  return fma(even_bf16(a), even_bf16(b), fma(odd_bf16(a), odd_bf16(b), acc));
}
#endif

inline __m128i load_some(const void* p, int64_t count) {  // the first `count` of four 32-bit values, zeros behind
  int32_t values[4] = {};
  std::memcpy(values, p, static_cast<size_t>(count) * 4);
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
}

// 16 rows of `count` 32-bit values (floats, or pairs of bf16), transposed: out[i][row]. Squares of four by four go
// through unpacks in SSE registers, 4 + 4 instructions for 16 values, on every instruction set.
inline void transpose_rows(const void* rows, int64_t count, void* out) {
  const auto* from = static_cast<const std::byte*>(rows);
  auto* to = static_cast<std::byte*>(out);
  const auto move = [&](int64_t row, int64_t first, int64_t width) {
    __m128i r[4];
    for (int i = 0; i < 4; ++i) {
      const std::byte* p = from + ((row + i) * count + first) * 4;
      r[i] = width == 4 ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)) : load_some(p, width);
    }
    const __m128i low01 = _mm_unpacklo_epi32(r[0], r[1]), low23 = _mm_unpacklo_epi32(r[2], r[3]);
    const __m128i high01 = _mm_unpackhi_epi32(r[0], r[1]), high23 = _mm_unpackhi_epi32(r[2], r[3]);
    const __m128i columns[4] = {_mm_unpacklo_epi64(low01, low23), _mm_unpackhi_epi64(low01, low23),
                                _mm_unpacklo_epi64(high01, high23), _mm_unpackhi_epi64(high01, high23)};
    for (int64_t i = 0; i < width; ++i)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + ((first + i) * kLanes + row) * 4), columns[i]);
  };
  for (int64_t first = 0; first < count; first += 4)
    for (int64_t row = 0; row < kLanes; row += 4) move(row, first, std::min<int64_t>(4, count - first));
}

// ((lane 0 + 8) + (4 + 12)) + ...: halves fold onto each other.
inline float reduce_add(F32x16 a) {
  const __m256 eight = _mm256_add_ps(low(a), high(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float reduce_max(F32x16 a) {
  const __m256 eight = _mm256_max_ps(low(a), high(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// e^x. Range reduction x = n ln 2 + r, |r| <= ln 2 / 2, then the Taylor series to r^7, whose remainder
// (0.347^8 / 8! = 5e-9) is a tenth of half an ulp. Below -87.3 (where 2^n would be subnormal) the answer is 0, above 88
// it is e^88; attention and silu need nothing beyond.
inline F32x16 exp(F32x16 x) {
  const F32x16 floor_x = broadcast(-87.3f);
  // x second: the instructions return their second operand if one is NaN, and a broken row must show as such.
  const F32x16 clamped = min(broadcast(88.0f), max(floor_x, x));
  const F32x16 n = round_even(clamped * broadcast(1.44269504f));
  // ln 2 in two parts: the first has 9 significant bits, so n * part is exact.
  F32x16 r = fma(n, broadcast(-0.693359375f), clamped);
  r = fma(n, broadcast(2.12194440e-4f), r);
  F32x16 p = broadcast(1.0f / 5040);
  p = fma(p, r, broadcast(1.0f / 720));
  p = fma(p, r, broadcast(1.0f / 120));
  p = fma(p, r, broadcast(1.0f / 24));
  p = fma(p, r, broadcast(1.0f / 6));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return if_less(x, floor_x, zero(), p * exp2_integral(n));
}

// log(1 + u) for 0 <= u <= 1: 2 artanh(s) with s = u / (2 + u) <= 1/3, its series to s^15, whose remainder
// (3^-16 / 17 = 1.4e-9 of s) is a fortieth of half an ulp.
inline F32x16 log1p_unit(F32x16 u) {
  const F32x16 s = u / (broadcast(2.0f) + u), square = s * s;
  F32x16 p = broadcast(2.0f / 15);
  for (float denominator : {13.0f, 11.0f, 9.0f, 7.0f, 5.0f, 3.0f, 1.0f})
    p = fma(p, square, broadcast(2.0f / denominator));
  return p * s;
}

}  // namespace sluice::cpu::SLUICE_ISA
