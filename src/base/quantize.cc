#include "sluice/quantize.h"

#include <algorithm>
#include <cmath>

#include "sluice/check.h"
#include "sluice/tensor.h"

namespace sluice {

namespace {

// Scales tried: the largest magnitude over 6.5, 6.75, ..., 8.25. Below 7 the largest weight is clipped; above 8 a code
// is wasted on one side. On normal weights in groups of 32 the relative error is 0.0865 (plain rounding: 0.0975); 12
// steps from 6 give 0.0861 for half as much time again.
constexpr float kFirstDivisor = 6.5f;
constexpr float kDivisorStep = 0.25f;
constexpr int32_t kNumDivisors = 8;
constexpr int32_t kMaxGroup = 128;
constexpr int32_t kLanes = 16;  // partial sums, folded in one order: the same bits however wide the machine is

// The search is most of the time of loading a model in 4 bits, so it is compiled for wide registers, too; no operation
// in it may be fused (the build forbids that), so every version gives the same bits. Sanitizers cannot start with such
// functions.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SLUICE_WIDE __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define SLUICE_WIDE
#endif

float nearest_f16(float value) { return f16_to_f32(f32_to_f16(value)); }

// Nearest even for |x| < 2^22: adding 1.5 * 2^23 leaves no bits behind the point. Two additions, where nearbyint would
// be a call per value.
inline float round_even(float x) { return (x + 12582912.0f) - 12582912.0f; }

struct Trial {
  float scale = 0;
  float error = INFINITY;  // squared
  float dot = 0;           // sum of weight * code
  float norm = 0;          // sum of code^2
};

// Halves folded onto each other; destroys the lanes.
inline float fold(float* lanes) {
  for (int32_t width = kLanes / 2; width > 0; width /= 2)
    for (int32_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

SLUICE_WIDE void measure(const float* weights, int32_t count, Trial& trial) {
  const float inverse = 1.0f / trial.scale;
  float error[kLanes] = {}, dot[kLanes] = {}, norm[kLanes] = {};
  for (int32_t i = 0; i < count; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const float w = weights[i + lane];
      float code = w * inverse;
      code = code < -8.0f ? -8.0f : code;
      code = code > 7.0f ? 7.0f : code;
      code = round_even(code);
      const float miss = w - code * trial.scale;
      error[lane] += miss * miss;
      dot[lane] += w * code;
      norm[lane] += code * code;
    }
  }
  trial.error = fold(error);
  trial.dot = fold(dot);
  trial.norm = fold(norm);
}

// The better of `best` and a trial of `scale`.
void consider(const float* weights, int32_t count, float scale, Trial& best) {
  Trial trial{.scale = nearest_f16(scale)};
  if (!(trial.scale > 0)) return;
  measure(weights, count, trial);
  if (trial.error < best.error) best = trial;
}

float search_scale(const float* weights, int32_t count, float peak) {
  Trial best;
  for (int32_t step = 0; step < kNumDivisors; ++step)
    consider(weights, count, peak / (kFirstDivisor + kDivisorStep * static_cast<float>(step)), best);
  // With the codes held fixed the best scale is dot / norm; twice is as far as that goes.
  for (int32_t round = 0; round < 2; ++round)
    if (best.norm > 0) consider(weights, count, best.dot / best.norm, best);
  return best.scale;
}

}  // namespace

bool is_quantized(WeightFormat format) {
  return format != WeightFormat::kAuto && format != WeightFormat::kF32 && format != WeightFormat::kBF16;
}

int32_t code_bits(WeightFormat format) {
  SLUICE_DCHECK(is_quantized(format), "{}", name(format));
  return format == WeightFormat::kInt8 ? 8 : 4;
}

int32_t group_size(WeightFormat format, int64_t cols) {
  SLUICE_DCHECK(is_quantized(format), "{}", name(format));
  int32_t group = kMaxGroup;  // int8 and int4-g128
  if (format == WeightFormat::kInt4G64) group = 64;
  if (format == WeightFormat::kInt4G32) group = 32;
  while (group >= 32 && cols % group != 0) group /= 2;
  return group >= 32 ? group : 0;
}

WeightFormat storage_format(WeightFormat wanted, int64_t cols) {
  return is_quantized(wanted) && group_size(wanted, cols) == 0 ? WeightFormat::kBF16 : wanted;
}

float quantize_weights(const float* weights, int32_t count, int32_t bits, int8_t* codes) {
  float peak = 0;
  for (int32_t i = 0; i < count; ++i) peak = std::max(peak, std::fabs(weights[i]));
  const float scale = bits == 4 ? search_scale(weights, count, peak) : nearest_f16(peak / 127.0f);
  if (!(scale > 0)) {  // all zero, or below the smallest f16
    std::fill_n(codes, count, int8_t{0});
    return 0;
  }
  const float inverse = 1.0f / scale;
  const float low = bits == 4 ? -8.0f : -127.0f, high = bits == 4 ? 7.0f : 127.0f;
  for (int32_t i = 0; i < count; ++i)
    codes[i] = static_cast<int8_t>(round_even(std::clamp(weights[i] * inverse, low, high)));
  return scale;
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

}  // namespace sluice
