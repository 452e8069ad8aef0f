// Entries of an int8 latent cache (sluice/latent_codes.h): where they lie, how they are made and how they are read as bf16.
#pragma once

#include <algorithm>

#include "sluice/latent_codes.h"
#include "sluice/ops.h"

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

// One layer's slice of a page.
struct CodePage {
  uint8_t* codes;  // [64][width]
  float* scales;   // [num_groups][64]

  CodePage(const LatentCache& cache, PageId page, const LatentCodes& layout)
      : codes(reinterpret_cast<uint8_t*>(cache.base + value(page) * cache.page_stride)),
        scales(reinterpret_cast<float*>(codes + layout.scales_offset())) {}
};

struct GroupCodes {
  float scale;  // NaN where a value is none
  int32_t sum;  // of the codes
};

// quantize_activations, 16 at a time. Writes codes up to the next multiple of 16.
inline GroupCodes quantize_codes(const float* x, int64_t count, int8_t* codes) {
  F32x16 peaks = zero(), broken = zero();
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32x16 value = load_first(x + i, std::min<int64_t>(kLanes, count - i));
    peaks = max(peaks, max(value, zero() - value));
    broken = fma(value, zero(), broken);
  }
  const float peak = reduce_max(peaks), nothing = reduce_add(broken);
  const bool empty = !(peak > 0) || !(nothing == 0);
  const F32x16 inverse = broadcast(empty ? 0.0f : 127.0f / peak);
  F32x16 sums = zero();  // exact: codes are below 2^7
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32x16 value = load_first(x + i, std::min<int64_t>(kLanes, count - i));
    const F32x16 rounded = empty ? zero() : round_even(value * inverse);
    store_codes(codes + i, rounded);
    sums = sums + rounded;
  }
  return {(peak > 0 ? peak / 127.0f : 0.0f) + nothing, static_cast<int32_t>(reduce_add(sums))};
}

// Entry `place` of a page of codes, as bf16.
inline void widen_codes(const LatentCodes& layout, const CodePage& page, int64_t place, uint16_t* out) {
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const int64_t end = layout.begin(g + 1);
    const float scale = page.scales[g * kPageTokens + place];
    const uint8_t* codes = page.codes + place * layout.width();
    int64_t i = layout.begin(g);
    for (; i + kLanes <= end; i += kLanes)
      store_bf16(out + i, broadcast(scale) * (to_f32(load_u8(codes + i)) - broadcast(LatentCodes::kExcess)));
    for (; i < end; ++i) out[i] = f32_to_bf16(scale * static_cast<float>(codes[i] - LatentCodes::kExcess));
  }
}

}  // namespace sluice::cpu::SLUICE_ISA
