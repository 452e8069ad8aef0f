// Reading and writing entries of the paged latent cache.
#pragma once

#include <algorithm>
#include <cstring>

#include "sluice/check.h"
#include "sluice/latent_codes.h"
#include "sluice/ops.h"

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

inline int64_t element_bytes(const LatentCache& cache) { return cache.dtype == DType::kF32 ? 4 : 2; }

inline std::byte* entry_address(const LatentCache& cache, const PageId* pages, int32_t position, int64_t width) {
  return cache.base + value(pages[position / kPageTokens]) * cache.page_stride +
         position % kPageTokens * width * element_bytes(cache);
}

// The entries of one page of an f32 cache: rows [64, width].
inline const float* page_entries(const LatentCache& cache, PageId page) {
  return reinterpret_cast<const float*>(cache.base + value(page) * cache.page_stride);
}

// An int8 cache (sluice/latent_codes.h): one layer's slice of a page.
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

}  // namespace sluice::cpu::SLUICE_ISA
