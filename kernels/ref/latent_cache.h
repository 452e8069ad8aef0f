// Entries of the paged caches (LatentCache), one value or one address at a time.
#pragma once

#include "sluice/check.h"
#include "sluice/latent_codes.h"
#include "sluice/ops.h"

namespace sluice::ref {

inline void store(std::byte* entry, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    reinterpret_cast<float*>(entry)[index] = value;
  } else {
    SLUICE_CHECK(dtype == DType::kBF16, "cache dtype {}", name(dtype));
    reinterpret_cast<uint16_t*>(entry)[index] = f32_to_bf16(value);
  }
}

inline std::byte* entry_of(const LatentCache& cache, const PageId* pages, int32_t position, int32_t width) {
  return cache.base + value(pages[position / kPageTokens]) * cache.page_stride +
         (position % kPageTokens) * width * size_of(cache.dtype);
}

// Codes and scales of an int8 cache (sluice/latent_codes.h).
struct CodeEntry {
  uint8_t* codes;  // [width]
  float* scales;   // [num_groups], kPageTokens apart

  CodeEntry(const LatentCache& cache, const PageId* pages, int32_t position, const LatentCodes& layout) {
    std::byte* slice = cache.base + value(pages[position / kPageTokens]) * cache.page_stride;
    codes = reinterpret_cast<uint8_t*>(slice + position % kPageTokens * layout.width());
    scales = reinterpret_cast<float*>(slice + layout.scales_offset()) + position % kPageTokens;
  }
};

}  // namespace sluice::ref
