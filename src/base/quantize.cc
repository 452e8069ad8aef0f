#include "sluice/quantize.h"

#include <algorithm>
#include <cmath>

#include "sluice/check.h"
#include "sluice/tensor.h"

#include "base/scale_search.h"

namespace sluice {

namespace {

// The nearest f16 and then bf16 is a value of both: bf16 has fewer bits behind the point wherever f16 is normal, and
// below that both steps are powers of two of which the coarser one is kept.
float nearest_scale(float value) { return bf16_to_f32(f32_to_bf16(f16_to_f32(f32_to_f16(value)))); }
bool is_f16(float value) { return f16_to_f32(f32_to_f16(value)) == value; }

// Nearest even for |x| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point. Two additions, where nearbyint would
// be a call per value.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

// The codes of a format.
struct CodeRange {
  float low, high;
};
constexpr CodeRange kCodes4{kLowCode4, kHighCode4};
constexpr CodeRange kCodes8{-128, 127};

struct Trial {
  float scale = 0;
  float zero = 0;
  float error = INFINITY;  // squared
  float dot = 0;           // sum of weight * (code - zero)
  float norm = 0;          // sum of (code - zero)^2
};

// Halves folded onto each other; destroys the lanes.
inline float fold(float* lanes) {
  for (int32_t width = kLanes / 2; width > 0; width /= 2)
    for (int32_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

SLUICE_WIDE void measure(const float* weights, int32_t count, Trial& trial) {
  const float inverse = 1.0f / trial.scale;
  const float low = kCodes4.low - trial.zero, high = kCodes4.high - trial.zero;
  float error[kLanes] = {}, dot[kLanes] = {}, norm[kLanes] = {};
  for (int32_t i = 0; i < count; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const float w = weights[i + lane];
      float steps = w * inverse;  // code - zero
      steps = steps < low ? low : steps;
      steps = steps > high ? high : steps;
      steps = round_even(steps);
      const float miss = w - steps * trial.scale;
      error[lane] += miss * miss;
      dot[lane] += w * steps;
      norm[lane] += steps * steps;
    }
  }
  trial.error = fold(error);
  trial.dot = fold(dot);
  trial.norm = fold(norm);
}

// The better of `best` and a trial of (scale, zero).
void consider(const float* weights, int32_t count, float scale, float zero, Trial& best) {
  Trial trial{.scale = nearest_scale(scale), .zero = zero};
  if (!(trial.scale > 0)) return;
  measure(weights, count, trial);
  if (trial.error < best.error) best = trial;
}

void refine(const float* weights, int32_t count, Trial& best) {
  for (int32_t round = 0; round < kNumRefinements; ++round)
    if (best.norm > 0) consider(weights, count, best.dot / best.norm, best.zero, best);
}

Trial search_scale(const float* weights, int32_t count, float peak) {
  Trial best;
  for (int32_t step = 0; step < kNumDivisors; ++step)
    consider(weights, count, peak / (kFirstDivisor + kDivisorStep * static_cast<float>(step)), 0, best);
  refine(weights, count, best);
  return best;
}

// Never worse than without a zero point, because it begins there.
Trial search_scale_and_zero(const float* weights, int32_t count, float peak) {
  Trial best = search_scale(weights, count, peak);
  const auto [smallest, largest] = std::minmax_element(weights, weights + count);
  const float centre = 0.5f * (*smallest + *largest);
  for (int32_t step = 0; step < kNumSpans; ++step) {
    const float scale = (*largest - *smallest) / (kFirstSpan + kSpanStep * static_cast<float>(step));
    if (!(scale > 0)) break;
    // The middle of the codes, -0.5, belongs onto the middle of the weights; a zero point is a whole number.
    const float wanted = std::floor(-0.5f - centre / scale);
    for (const float zero : {wanted, wanted + 1})
      if (zero >= kCodes4.low && zero <= kCodes4.high) consider(weights, count, scale, zero, best);
  }
  refine(weights, count, best);
  return best;
}

// Whether all weights are whole multiples of `scale` in [range.low, range.high].
SLUICE_WIDE bool are_multiples(const float* weights, int32_t count, float scale, CodeRange range) {
  const float inverse = 1.0f / scale;
  int32_t misses[kLanes] = {};
  for (int32_t i = 0; i < count; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const float w = weights[i + lane];
      const float steps = round_even(w * inverse);
      misses[lane] |= static_cast<int32_t>(steps * scale != w) | static_cast<int32_t>(steps < range.low) |
                      static_cast<int32_t>(steps > range.high);
    }
  }
  int32_t any = 0;
  for (int32_t miss : misses) any |= miss;
  return any == 0;
}

struct Magnitudes {
  float largest = 0;
  float smallest = INFINITY;  // but zero
};

SLUICE_WIDE Magnitudes magnitudes(const float* weights, int32_t count) {
  float largest[kLanes] = {}, smallest[kLanes];
  std::fill_n(smallest, kLanes, INFINITY);
  for (int32_t i = 0; i < count; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const float magnitude = std::fabs(weights[i + lane]);
      largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
      const float nonzero = magnitude > 0 ? magnitude : INFINITY;
      smallest[lane] = nonzero < smallest[lane] ? nonzero : smallest[lane];
    }
  }
  return {*std::max_element(largest, largest + kLanes), *std::min_element(smallest, smallest + kLanes)};
}

// The scale of which all weights are multiples within range, or 0. It divides the smallest weight, and the largest one
// bounds how often: weights that nobody quantised are turned away by the first comparison. Products of an f16 scale and
// a code have at most 19 bits, so f32 holds them, and the quotients here, exactly.
float exact_scale(const float* weights, int32_t count, const Magnitudes& size, CodeRange range) {
  const float most = std::max(-range.low, range.high);
  for (float parts = 1; size.largest * parts <= most * size.smallest; ++parts) {
    const float scale = size.smallest / parts;
    if (is_f16(scale) && are_multiples(weights, count, scale, range)) return scale;
  }
  return 0;
}

// What 16 codes reach from some zero point.
constexpr CodeRange kReach{-15, 15};

// Multiples of a scale that they reach, or scale 0. Zero stays as near to 0 as it can.
GroupGrid exact_grid(const float* weights, int32_t count, const Magnitudes& size) {
  const float scale = exact_scale(weights, count, size, kReach);
  if (!(scale > 0)) return {};
  const auto [smallest, largest] = std::minmax_element(weights, weights + count);
  const auto low = static_cast<int32_t>(round_even(*smallest / scale));
  const auto high = static_cast<int32_t>(round_even(*largest / scale));
  if (high - low > 15) return {};
  return {scale, std::clamp(0, -8 - low, 7 - high)};
}

GroupGrid choose_grid(WeightFormat format, const float* weights, int32_t count) {
  const Magnitudes size = magnitudes(weights, count);
  if (!(size.largest > 0)) return {};
  if (has_zero_points(format)) {
    const GroupGrid exact = exact_grid(weights, count, size);
    if (exact.scale > 0) return exact;
    const Trial best = search_scale_and_zero(weights, count, size.largest);
    return {best.scale, static_cast<int32_t>(best.zero)};
  }
  const bool narrow = code_bits(format) == 4;
  const float exact = exact_scale(weights, count, size, narrow ? kCodes4 : kCodes8);
  if (exact > 0) return {exact, 0};
  return {narrow ? search_scale(weights, count, size.largest).scale : nearest_scale(size.largest / 127.0f), 0};
}

SLUICE_WIDE void make_codes(const float* weights, int32_t count, GroupGrid grid, CodeRange range, int8_t* codes) {
  const float inverse = 1.0f / grid.scale;
  const auto zero = static_cast<float>(grid.zero);
  const float low = range.low - zero, high = range.high - zero;
  for (int32_t i = 0; i < count; ++i) {
    float steps = weights[i] * inverse;
    steps = steps < low ? low : steps;
    steps = steps > high ? high : steps;
    codes[i] = static_cast<int8_t>(static_cast<int32_t>(round_even(steps) + zero));
  }
}

}  // namespace

bool is_quantized(WeightFormat format) {
  return format != WeightFormat::kAuto && format != WeightFormat::kF32 && format != WeightFormat::kBF16;
}

bool has_zero_points(WeightFormat format) {
  return format == WeightFormat::kInt4G32Z || format == WeightFormat::kInt4G64Z || format == WeightFormat::kInt4G128Z;
}

int32_t code_bits(WeightFormat format) {
  SLUICE_DCHECK(is_quantized(format), "{}", name(format));
  return format == WeightFormat::kInt8 ? 8 : 4;
}

int32_t group_size(WeightFormat format, int64_t cols) {
  SLUICE_DCHECK(is_quantized(format), "{}", name(format));
  int32_t group = kMaxGroup;  // int8 and int4-g128
  if (format == WeightFormat::kInt4G64 || format == WeightFormat::kInt4G64Z) group = 64;
  if (format == WeightFormat::kInt4G32 || format == WeightFormat::kInt4G32Z) group = 32;
  while (group >= 32 && cols % group != 0) group /= 2;
  return group >= 32 ? group : 0;
}

WeightFormat storage_format(WeightFormat wanted, int64_t cols) {
  return is_quantized(wanted) && group_size(wanted, cols) == 0 ? WeightFormat::kBF16 : wanted;
}

GroupGrid quantize_group(WeightFormat format, const float* weights, int32_t count, int8_t* codes) {
  const GroupGrid grid = choose_grid(format, weights, count);
  if (!(grid.scale > 0)) {  // all zero, or below the smallest scale
    std::fill_n(codes, count, int8_t{0});
    return {};
  }
  make_codes(weights, count, grid, code_bits(format) == 4 ? kCodes4 : kCodes8, codes);
  return grid;
}

void quantize_groups(WeightFormat format, const float* weights, int32_t count, int64_t num_groups, int8_t* codes,
                     GroupGrid* grids) {
  int64_t group = 0;
  ScaleSearch search;
  search.count = count;
  search.zero_points = has_zero_points(format);
  // Below this much between the largest and the smallest weight they may be codes already: exact_scale() looks.
  const float reach = search.zero_points ? kReach.high : -kCodes4.low;
  for (; code_bits(format) == 4 && group + kLanes <= num_groups; group += kLanes) {
    search.weights = weights + group * count;
    search_scales(search);
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float* from = search.weights + lane * count;
      int8_t* into = codes + (group + lane) * count;
      GroupGrid& grid = grids[group + lane];
      grid = {search.scales[lane], static_cast<int32_t>(search.zeros[lane])};
      if (search.largest[lane] <= reach * search.smallest[lane] || !(grid.scale > 0)) {
        grid = quantize_group(format, from, count, into);
      } else {
        make_codes(from, count, grid, kCodes4, into);
      }
    }
  }
  for (; group < num_groups; ++group)
    grids[group] = quantize_group(format, weights + group * count, count, codes + group * count);
}

SLUICE_WIDE void quantize_row_compensated(WeightFormat format, float* weights, int64_t cols, const float* factor,
                                          int8_t* codes, GroupGrid* grids) {
  const int32_t group = group_size(format, cols);
  const CodeRange range = code_bits(format) == 4 ? kCodes4 : kCodes8;
  for (int64_t k = 0; k < cols; ++k) {
    GroupGrid& grid = grids[k / group];
    if (k % group == 0) grid = quantize_group(format, weights + k, group, codes + k);
    const float* spread = factor + k * cols;  // row k of U
    const auto zero = static_cast<float>(grid.zero);
    float code = 0, error = weights[k];
    if (grid.scale > 0) {
      code = round_even(std::clamp(weights[k] / grid.scale, range.low - zero, range.high - zero)) + zero;
      error = weights[k] - grid.scale * (code - zero);
    }
    codes[k] = static_cast<int8_t>(code);
    error /= spread[k];
    for (int64_t j = k + 1; j < cols; ++j) weights[j] -= error * spread[j];
  }
}

float quantize_weights(const float* weights, int32_t count, int32_t bits, int8_t* codes) {
  // Of the 4-bit formats any will do: they differ in their group, which is `count` here.
  return quantize_group(bits == 4 ? WeightFormat::kInt4G32 : WeightFormat::kInt8, weights, count, codes).scale;
}

float quantize_activations(const float* x, int32_t count, int8_t* codes) {
  float peak = 0;
  for (int32_t i = 0; i < count; ++i) peak = std::max(peak, std::fabs(x[i]));
  if (!(peak > 0)) {
    std::fill_n(codes, count, int8_t{0});
    return 0;
  }
  const float inverse = 127.0f / peak;
  for (int32_t i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(round_even(x[i] * inverse));
  return peak / 127.0f;
}

SLUICE_WIDE void expand_nibbles(const uint8_t* stored, int32_t count, float scale, int32_t excess, float* out) {
  for (int32_t i = 0; i < count / 2; ++i) {
    out[2 * i] = scale * static_cast<float>((stored[i] & 15) - excess);
    out[2 * i + 1] = scale * static_cast<float>((stored[i] >> 4) - excess);
  }
}

SLUICE_WIDE void expand_bytes(const uint8_t* stored, int32_t count, float scale, int32_t excess, float* out) {
  for (int32_t i = 0; i < count; ++i) out[i] = scale * static_cast<float>(stored[i] - excess);
}

}  // namespace sluice
