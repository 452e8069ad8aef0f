#include "model/power_scales.h"

#include <array>
#include <cmath>
#include <limits>

namespace sluice {

float e8m0_to_f32(uint8_t bits) {
  return bits == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, bits - 127);
}

float e2m1_to_f32(uint8_t code) {
  constexpr std::array kMagnitudes = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitudes[code & 7];
  return code & 8 ? -magnitude : magnitude;
}

void widen_scales(const TensorView& scales, int64_t begin, int64_t count, float* out) {
  if (scales.dtype != DType::kF8E8M0) return widen_to_f32(scales, begin, count, out);
  for (int64_t i = 0; i < count; ++i) out[i] = e8m0_to_f32(static_cast<uint8_t>(scales.data[begin + i]));
}

void widen_fp4(const TensorView& packed, int64_t begin, int64_t count, float* out) {
  SLUICE_CHECK(begin % 2 == 0 && count % 2 == 0, "begin={} count={}", begin, count);
  for (int64_t i = 0; i < count; i += 2) {
    const auto byte = static_cast<uint8_t>(packed.data[(begin + i) / 2]);
    out[i] = e2m1_to_f32(byte & 15);
    out[i + 1] = e2m1_to_f32(byte >> 4);
  }
}

}  // namespace sluice
