// Where a compressed entry lies (CompressedCache in ops.h), and how an entry is finished.
#pragma once

#include <algorithm>

#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/latent_cache.h"

namespace sluice::cpu::SLUICE_ISA {

inline std::byte* entry_address(const CompressedCache& cache, const PageId* pages, int32_t entry, int64_t width) {
  const int32_t last = cache.ratio * (entry + 1) - 1;
  const int32_t place = cache.ratio <= kPageTokens ? entry % (kPageTokens / cache.ratio) : 0;
  return cache.entries.base + value(pages[last / kPageTokens]) * cache.entries.page_stride +
         place * width * element_bytes(cache.entries);
}

// dim values as f32, whatever the cache's type.
inline void widen_entry(const LatentCache& cache, const std::byte* entry, int64_t dim, float* out) {
  if (cache.dtype == DType::kF32) {
    std::copy_n(reinterpret_cast<const float*>(entry), dim, out);
    return;
  }
  const auto* source = reinterpret_cast<const uint16_t*>(entry);
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) store(out + i, load_bf16(source + i));
  for (; i < dim; ++i) out[i] = bf16_to_f32(source[i]);
}

}  // namespace sluice::cpu::SLUICE_ISA
