// Reading one head's rows out of the paged keys or values of grouped-query attention.
#pragma once

#include "kernels/cpu/compressed_cache.h"

namespace sluice::cpu::SLUICE_ISA {

// One head of a page's rows as f32: row i at data + i * stride.
struct HeadRowsOfPage {
  const float* data;
  int64_t stride;
};

// Rows [0, count) of head `group` of a page: as they lie where the cache is f32, else widened into memory [64,
// head_dim].
inline HeadRowsOfPage head_rows(const LatentCache& cache, PageId page, int32_t count, const GroupedAttentionArgs& args,
                                int64_t group, float* memory) {
  const int64_t width = int64_t{args.kv_heads} * args.head_dim;
  const std::byte* first = cache.base + value(page) * cache.page_stride + group * args.head_dim * element_bytes(cache);
  if (cache.dtype == DType::kF32) return {reinterpret_cast<const float*>(first), width};
  for (int32_t i = 0; i < count; ++i)
    widen_entry(cache, first + i * width * element_bytes(cache), args.head_dim, memory + int64_t{i} * args.head_dim);
  return {memory, args.head_dim};
}

}  // namespace sluice::cpu::SLUICE_ISA
