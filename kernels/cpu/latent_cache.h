// Reading and writing entries of the paged latent cache.
#pragma once

#include <cstring>

#include "sluice/check.h"
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

}  // namespace sluice::cpu::SLUICE_ISA
