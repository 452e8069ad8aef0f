// kv_a output -> cache entries: norm, rotate, round. What attention reads later is the rounded entry, in the step that
// writes it too, so a hit and a miss see the same bits.
#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/latent_code_page.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kMaxWidth = 2048;  // kv_lora_rank + rope_dim; 576 in every released model

// Codes and scales of one entry (sluice/latent_codes.h).
void write_codes(const LatentWriteArgs& args, PageId page, int32_t place, const float* entry) {
  const LatentCodes layout{args.kv_lora_rank, args.rope_dim};
  const CodePage into(args.cache, page, layout);
  alignas(64) int8_t codes[kMaxWidth];
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const int32_t begin = layout.begin(g), count = layout.begin(g + 1) - begin;
    into.scales[g * kPageTokens + place] = quantize_codes(entry + begin, count, codes).scale;
    for (int32_t i = 0; i < count; ++i)
      into.codes[place * layout.width() + begin + i] = static_cast<uint8_t>(codes[i] + LatentCodes::kExcess);
  }
}

void write_entry(const LatentWriteArgs& args, const SequenceSpan& span, int32_t position) {
  const int32_t width = args.kv_lora_rank + args.rope_dim;
  const int64_t row = span.row_begin + position - span.position_begin;
  const float* z = args.z + row * width;
  alignas(64) float entry[kMaxWidth];
  rms_norm_row(z, args.norm_weight, args.eps, args.kv_lora_rank, entry);
  std::copy(z + args.kv_lora_rank, z + width, entry + args.kv_lora_rank);
  rotate(entry + args.kv_lora_rank, args.cos_sin + row * args.rope_dim, args.rope_dim, args.layout);
  if (args.cache.dtype == DType::kI8)
    return write_codes(args, span.pages[position / kPageTokens], position % kPageTokens, entry);
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
  const DType dtype = args.cache.dtype;
  SLUICE_CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kI8, "cache dtype {}", name(dtype));
  for (const SequenceSpan& span : args.sequences) {
    context.team.parallel_for(span.position_end - span.position_begin, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) write_entry(args, span, span.position_begin + static_cast<int32_t>(i));
    });
  }
}

}  // namespace sluice::cpu::SLUICE_ISA
