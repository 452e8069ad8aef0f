// Registers of bytes, beside simd.h: what products of bytes need to make their operands.
#pragma once

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

#if defined(__AVX512F__)

inline I32x16 operator|(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
inline I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int BITS>
inline I32x16 shift_left(I32x16 a) {
  return {_mm512_slli_epi32(a.v, BITS)};
}
inline I32x16 flip_signs(I32x16 a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))}; }  // of 64 bytes
inline I32x16 to_i32(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }                              // nearest even
// As interleave_low and interleave_high, of bytes.
inline I32x16 interleave_bytes_low(I32x16 a, I32x16 b) { return {_mm512_unpacklo_epi8(a.v, b.v)}; }
inline I32x16 interleave_bytes_high(I32x16 a, I32x16 b) { return {_mm512_unpackhi_epi8(a.v, b.v)}; }

#else

inline I32x16 operator|(I32x16 a, I32x16 b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int BITS>
inline I32x16 shift_left(I32x16 a) {
  return {_mm256_slli_epi32(a.lo, BITS), _mm256_slli_epi32(a.hi, BITS)};
}
inline I32x16 flip_signs(I32x16 a) {
  const __m256i signs = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(a.lo, signs), _mm256_xor_si256(a.hi, signs)};
}
inline I32x16 to_i32(F32x16 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
inline I32x16 interleave_bytes_low(I32x16 a, I32x16 b) {
  return {_mm256_unpacklo_epi8(a.lo, b.lo), _mm256_unpacklo_epi8(a.hi, b.hi)};
}
inline I32x16 interleave_bytes_high(I32x16 a, I32x16 b) {
  return {_mm256_unpackhi_epi8(a.lo, b.lo), _mm256_unpackhi_epi8(a.hi, b.hi)};
}

#endif

}  // namespace sluice::cpu::SLUICE_ISA
