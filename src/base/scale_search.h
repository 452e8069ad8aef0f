// What the two writings of the 4-bit scale search share: quantize.cc has the definition, one group at a time;
// scale_search.cc the same for 16 groups at once, bit for bit (tests/base/quantize_test.cc).
#pragma once

#include <cstdint>

// Compiled for wide registers, too; no operation may be fused (the build forbids that), so every version gives the same
// bits. Sanitizers cannot start with such functions.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SLUICE_WIDE_TARGETS __attribute__((target_clones("avx512f", "avx2", "default")))
#define SLUICE_WIDE SLUICE_WIDE_TARGETS __attribute__((optimize("O3")))
#else
#define SLUICE_WIDE_TARGETS
#define SLUICE_WIDE
#endif

namespace sluice {

// Scales tried: the largest magnitude over 6.5, 6.75, ..., 8.25. Below 7 the largest weight is clipped; above 8 a code
// is wasted on one side. On normal weights in groups of 32 the relative error is 0.0865 (plain rounding: 0.0975); 12
// steps from 6 give 0.0861 for half as much time again.
constexpr float kFirstDivisor = 6.5f;
constexpr float kDivisorStep = 0.25f;
constexpr int32_t kNumDivisors = 8;
// With a zero point: the range of the weights over 12.5, 13, ..., 15, the number of steps between 16 codes.
constexpr float kFirstSpan = 12.5f;
constexpr float kSpanStep = 0.5f;
constexpr int32_t kNumSpans = 6;
// With the codes held fixed the best scale is dot / norm; twice is as far as that goes.
constexpr int32_t kNumRefinements = 2;
constexpr int32_t kMaxGroup = 128;
constexpr int32_t kLanes = 16;  // partial sums of a group, folded in one order: the same bits however wide the machine is

constexpr float kLowCode4 = -8, kHighCode4 = 7;

// 16 groups of `count` weights, one behind the other.
struct ScaleSearch {
  const float* weights = nullptr;
  int32_t count = 0;  // a multiple of 16, at most kMaxGroup
  bool zero_points = false;  // whether a zero point is searched, too
  // Found, for each group. A scale of 0: none of those tried is above zero.
  float scales[kLanes] = {}, zeros[kLanes] = {};
  // Of each group, for those that are codes already: the largest magnitude and the smallest but zero.
  float largest[kLanes] = {}, smallest[kLanes] = {};
};

void search_scales(ScaleSearch& search);

}  // namespace sluice
