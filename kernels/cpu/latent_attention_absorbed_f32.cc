// One tile of the absorbed form over an f32 cache: lanes are heads for the scores, latent dims for the sums.
#include <algorithm>

#include "kernels/cpu/latent_attention_absorbed.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA::absorbed {

void attend_tile_f32(const Plan& plan, PageId page, int32_t count, const TileMemory& memory, const Accumulators& into) {
  const int64_t heads = plan.padded_heads(), rank = plan.args.kv_lora_rank;
  auto* weights = reinterpret_cast<float*>(memory.weights);
  const float* entries = page_entries(plan.args.cache, page);
  multiply_block(
      count, [&](int64_t key) { return entries + key * plan.width; }, plan.width,
      TileWeights<float>{reinterpret_cast<const float*>(memory.queries), plan.width * kLanes, kLanes}, plan.head_panels,
      [&](int64_t key, int64_t p, F32x16 value) { store(memory.scores + key * heads + p * kLanes, value); });
  soften_tile(memory.scores, count, plan.head_panels, into, memory.alphas);
  for (int32_t key = 0; key < count; ++key)
    for (int32_t head = 0; head < plan.args.heads; ++head)
      weights[head * kTileKeys + key] = memory.scores[key * heads + head];
  multiply_block(
      plan.args.heads, [&](int64_t head) { return weights + head * kTileKeys; }, count,
      TileWeights<float>{entries, kLanes, plan.width}, rank / kLanes,
      [&](int64_t head, int64_t p, F32x16 value) {
        float* out = into.latents + head * rank + p * kLanes;
        store(out, fma(load(out), broadcast(memory.alphas[head]), value));
      });
}

}  // namespace sluice::cpu::SLUICE_ISA::absorbed
