// Where a compressed entry lies (CompressedCache in ops.h).
#pragma once

#include "kernels/ref/latent_cache.h"

namespace sluice::ref {

inline std::byte* entry_of(const CompressedCache& cache, const PageId* pages, int32_t entry, int32_t width) {
  const int32_t last = cache.ratio * (entry + 1) - 1;
  const int32_t place = cache.ratio <= kPageTokens ? entry % (kPageTokens / cache.ratio) : 0;
  return cache.entries.base + value(pages[last / kPageTokens]) * cache.entries.page_stride +
         place * width * size_of(cache.entries.dtype);
}

}  // namespace sluice::ref
