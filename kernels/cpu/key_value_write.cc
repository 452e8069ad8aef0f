// Keys and values of grouped-query attention -> cache entries: rounded to the cache's type, also for the step that
// writes them, so that a hit and a miss see the same bits.
#include "kernels/cpu/backend.h"
#include "kernels/cpu/latent_cache.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

void write_entry(const LatentCache& cache, const PageId* pages, int32_t position, const float* from, int32_t width) {
  std::byte* target = entry_address(cache, pages, position, width);
  if (cache.dtype == DType::kF32) {
    std::memcpy(target, from, static_cast<size_t>(width) * sizeof(float));
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(target);
  for (int32_t i = 0; i < width; i += kLanes) store_bf16(out + i, load(from + i));
}

}  // namespace

void key_value_write(const KeyValueWriteArgs& args, OpContext& context) {
  SLUICE_CHECK(args.width % kLanes == 0, "width={} must be a multiple of {}", args.width, kLanes);
  for (const DType dtype : {args.keys.dtype, args.values.dtype})
    SLUICE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16, "cache dtype {}", name(dtype));
  for (const SequenceSpan& span : args.sequences) {
    context.team.parallel_for(span.position_end - span.position_begin, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const auto position = span.position_begin + static_cast<int32_t>(i);
        const int64_t row = (span.row_begin + i) * args.width;
        write_entry(args.keys, span.pages, position, args.k + row, args.width);
        write_entry(args.values, span.pages, position, args.v + row, args.width);
      }
    });
  }
}

}  // namespace sluice::cpu::SLUICE_ISA
