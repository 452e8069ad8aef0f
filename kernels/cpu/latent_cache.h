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

// The entries of one page as f32 rows [count, width]: the page itself where it is f32, else widened into `buffer`.
inline const float* page_entries(const LatentCache& cache, PageId page, int32_t count, int64_t width, float* buffer) {
  const std::byte* base = cache.base + value(page) * cache.page_stride;
  if (cache.dtype == DType::kF32) return reinterpret_cast<const float*>(base);
  const auto* source = reinterpret_cast<const uint16_t*>(base);
  const int64_t total = count * width;
  int64_t i = 0;
  for (; i + kLanes <= total; i += kLanes) store(buffer + i, load_bf16(source + i));
  for (; i < total; ++i) buffer[i] = bf16_to_f32(source[i]);
  return buffer;
}

}  // namespace sluice::cpu::SLUICE_ISA
