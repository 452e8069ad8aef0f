// The 4-bit scale search of 16 groups at once: a lane is a group. One group at a time spent more time on folding its 16
// partial sums, on roundings of a scale and on calls than on its two registers of weights. Here a fold is an addition
// of two registers, and every lane has its own scale; the price is a transposition of the weights, once for 10 trials
// (25 with zero points).
#include "base/scale_search.h"

#include <cmath>

#define SLUICE_INLINE __attribute__((always_inline)) inline

namespace sluice {

namespace {

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));

struct Sums {
  Floats error, dot, norm;
};

struct Trial {
  Floats scale, zero;
  Sums sums;
};

SLUICE_INLINE Floats all(float value) { return value - Floats{}; }
SLUICE_INLINE Ints bits_of(Floats a) { return reinterpret_cast<Ints>(a); }
SLUICE_INLINE Floats floats_of(Ints a) { return reinterpret_cast<Floats>(a); }
SLUICE_INLINE Floats round_even(Floats x) { return (x + 12582912.0f) - 12582912.0f; }

// nearest_scale() of quantize.cc for scales above zero: the nearest f16, and of that the nearest bf16. Below 2^-14 an
// f16 is a multiple of 2^-24, which is what adding 0.75 leaves.
SLUICE_INLINE Floats nearest_scale(Floats scale) {
  const Ints bits = bits_of(scale);
  const Ints normal = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff;
  const Ints small = bits_of((scale + 0.75f) - 0.75f);
  Ints f16 = bits < 0x38800000 ? small : normal;
  f16 = bits >= 0x477ff000 ? Ints{} + 0x7f800000 : f16;  // infinity
  return floats_of((f16 + 0x7fff + ((f16 >> 16) & 1)) & ~0xffff);
}

// What the definition keeps in partial sum LANE of a group, or in the fold of all LANE + k * STEP.
template <int LANE, int STEP>
SLUICE_INLINE Sums sum_of(const Floats* weights, int32_t count, Floats scale, Floats inverse, Floats low, Floats high) {
  if constexpr (STEP == kLanes) {
    Sums sums{};
    for (int32_t i = LANE; i < count; i += kLanes) {
      const Floats w = weights[i];
      Floats steps = w * inverse;
      steps = steps < low ? low : steps;
      steps = steps > high ? high : steps;
      steps = round_even(steps);
      const Floats miss = w - steps * scale;
      sums.error += miss * miss;
      sums.dot += w * steps;
      sums.norm += steps * steps;
    }
    return sums;
  } else {
    const Sums a = sum_of<LANE, 2 * STEP>(weights, count, scale, inverse, low, high);
    const Sums b = sum_of<LANE + STEP, 2 * STEP>(weights, count, scale, inverse, low, high);
    return {a.error + b.error, a.dot + b.dot, a.norm + b.norm};
  }
}

// Where a trial of (scale, zero) is allowed and better than the best, it is the best.
SLUICE_INLINE void consider(const Floats* weights, int32_t count, Floats wanted, Floats zero, Ints allowed,
                            Trial& best) {
  allowed &= wanted > 0.0f;
  const Floats scale = nearest_scale(allowed ? wanted : all(1.0f));
  const Sums sums = sum_of<0, 1>(weights, count, scale, 1.0f / scale, kLowCode4 - zero, kHighCode4 - zero);
  const Ints better = allowed & (scale > 0.0f) & (sums.error < best.sums.error);
  best.scale = better ? scale : best.scale;
  best.zero = better ? zero : best.zero;
  best.sums.error = better ? sums.error : best.sums.error;
  best.sums.dot = better ? sums.dot : best.sums.dot;
  best.sums.norm = better ? sums.norm : best.sums.norm;
}

}  // namespace

SLUICE_WIDE_TARGETS void search_scales(ScaleSearch& search) {
  const int32_t count = search.count;
  alignas(64) Floats weights[kMaxGroup];
  for (int32_t i = 0; i < count; ++i)
    for (int32_t group = 0; group < kLanes; ++group) weights[i][group] = search.weights[group * count + i];

  Floats peak{}, smallest = all(INFINITY), low = all(INFINITY), high = all(-INFINITY);
  for (int32_t i = 0; i < count; ++i) {
    const Floats w = weights[i], magnitude = floats_of(bits_of(w) & 0x7fffffff);
    peak = magnitude > peak ? magnitude : peak;
    const Floats nonzero = magnitude > 0.0f ? magnitude : all(INFINITY);
    smallest = nonzero < smallest ? nonzero : smallest;
    low = w < low ? w : low;
    high = high < w ? w : high;
  }

  // One place that tries, so that it is inlined once: divisors, refinements, then spans with two zero points each and
  // their refinements.
  const int32_t spans = kNumDivisors + kNumRefinements, refined_spans = spans + 2 * kNumSpans;
  const int32_t end = search.zero_points ? refined_spans + kNumRefinements : spans;
  const Floats centre = 0.5f * (low + high);
  Trial best{.scale = {}, .zero = {}, .sums = {.error = all(INFINITY), .dot = {}, .norm = {}}};
  for (int32_t trial = 0; trial < end; ++trial) {
    Floats scale, zero{};
    Ints allowed = Ints{} - 1;
    if (trial < kNumDivisors) {
      scale = peak / (kFirstDivisor + kDivisorStep * static_cast<float>(trial));
    } else if (trial >= spans && trial < refined_spans) {
      scale = (high - low) / (kFirstSpan + kSpanStep * static_cast<float>((trial - spans) / 2));
      // The middle of the codes, -0.5, belongs onto the middle of the weights; a zero point is a whole number. Zero
      // points beyond 2^22 are none, so the floor may be anything there.
      const Floats middle = -0.5f - centre / scale;
      const Floats rounded = round_even(middle);
      zero = (rounded > middle ? rounded - 1.0f : rounded) + static_cast<float>((trial - spans) % 2);
      allowed = (zero >= kLowCode4) & (zero <= kHighCode4);
    } else {
      scale = best.sums.dot / best.sums.norm;
      zero = best.zero;
      allowed = best.sums.norm > 0.0f;
    }
    consider(weights, count, scale, zero, allowed, best);
  }
  for (int32_t group = 0; group < kLanes; ++group) {
    search.scales[group] = best.scale[group];
    search.zeros[group] = best.zero[group];
    search.largest[group] = peak[group];
    search.smallest[group] = smallest[group];
  }
}

}  // namespace sluice
