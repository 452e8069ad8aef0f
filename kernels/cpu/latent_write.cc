// kv_a output -> cache entries: norm, rotate, round. What attention reads later is the rounded entry, in the step that
// writes it too, so a hit and a miss see the same bits.
#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/latent_cache.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kMaxWidth = 2048;  // kv_lora_rank + rope_dim; 576 in every released model

void write_entry(const LatentWriteArgs& args, const SequenceSpan& span, int32_t position) {
  const int32_t width = args.kv_lora_rank + args.rope_dim;
  const int64_t row = span.row_begin + position - span.position_begin;
  const float* z = args.z + row * width;
  alignas(64) float entry[kMaxWidth];
  rms_norm_row(z, args.norm_weight, args.eps, args.kv_lora_rank, entry);
  std::copy(z + args.kv_lora_rank, z + width, entry + args.kv_lora_rank);
  rotate(entry + args.kv_lora_rank, args.cos_sin + row * args.rope_dim, args.rope_dim, args.layout);
  std::byte* target = entry_address(args.cache, span.pages, position, width);
  if (args.cache.dtype == DType::kF32) {
    std::memcpy(target, entry, static_cast<size_t>(width) * sizeof(float));
  } else {
    auto* out = reinterpret_cast<uint16_t*>(target);
    for (int32_t i = 0; i < width; ++i) out[i] = f32_to_bf16(entry[i]);
  }
}

}  // namespace

void latent_write(const LatentWriteArgs& args, OpContext& context) {
  SLUICE_CHECK(args.kv_lora_rank + args.rope_dim <= kMaxWidth, "width={}", args.kv_lora_rank + args.rope_dim);
  SLUICE_CHECK(args.cache.dtype == DType::kF32 || args.cache.dtype == DType::kBF16, "cache dtype {}",
               name(args.cache.dtype));
  for (const SequenceSpan& span : args.sequences) {
    context.team.parallel_for(span.position_end - span.position_begin, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) write_entry(args, span, span.position_begin + static_cast<int32_t>(i));
    });
  }
}

}  // namespace sluice::cpu::SLUICE_ISA
