// One tile of the absorbed form over a bf16 cache, with bf16 operands and f32 sums (pair_tile.h): twice the rate of
// f32.
//
//   scores   rows of entries, as they lie in the page, times the query pairs [width / 2][16 heads][2]
//   sums     P [heads][64 keys] times the entries as pairs of keys. Two rows of the page become pairs in registers:
//
//     row k      a0 a1 .. a7 | a8 ..        low   a0 b0 a1 b1 a2 b2 a3 b3 | a8 b8 ..      32 dims of two keys in two
//     row k + 1  b0 b1 .. b7 | b8 ..   ->   high  a4 b4 a5 b5 a6 b6 a7 b7 | a12 ..        registers of pairs
//
//            whose lanes are put in order when the tile's sums are stored. 2 shuffles for 16 products: storing the
//            cache a second time in pairs of keys would save them and double its bytes.
#include <algorithm>

#include "kernels/cpu/latent_attention_absorbed.h"
#include "kernels/cpu/pair_tile.h"

namespace sluice::cpu::SLUICE_ISA::absorbed {

namespace {

constexpr int64_t kDims = 2 * kLanes;  // latent dims of one step
#if defined(__AVX512F__)
constexpr int kHeadRows = 8;  // 8 x 2 accumulators, 2 weights and the 2 rows they come from, of 32 registers
#else
constexpr int kHeadRows = 1;  // 2 accumulators of two registers each; the halves of both operands take the rest
#endif

// Sums of dims [0, 32) (HALF: 16) of `count` keys, an odd last key paired with zeros, for NUM_HEADS heads of which
// num_heads are stored.
template <int NUM_HEADS, bool HALF>
void sum_dims(const uint16_t* const* weights, int num_heads, const uint16_t* entries, int64_t width, int32_t count,
              float* const* out, const float* alphas) {
  const auto read = [](const uint16_t* p) { return HALF ? load_half(p) : load_bytes(p); };
  F32x16 low[NUM_HEADS], high[NUM_HEADS];
#pragma GCC unroll 8
  for (int h = 0; h < NUM_HEADS; ++h) low[h] = high[h] = zero();
  for (int32_t key = 0; key < count; key += 2) {
    const I32x16 a = read(entries + key * width);
    const I32x16 b = key + 1 < count ? read(entries + (key + 1) * width) : broadcast_i32(0);
    const I32x16 pairs_low = interleave_low(a, b), pairs_high = interleave_high(a, b);
#pragma GCC unroll 8
    for (int h = 0; h < NUM_HEADS; ++h) {
      const I32x16 weight = broadcast_pair(weights[h] + key);
      low[h] = dot2(low[h], weight, pairs_low);
      high[h] = dot2(high[h], weight, pairs_high);
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < NUM_HEADS; ++h) {
    if (h >= num_heads) continue;
    F32x16 first, second;
    order_interleaved(low[h], high[h], &first, &second);
    const F32x16 alpha = broadcast(alphas[h]);
    store(out[h], fma(load(out[h]), alpha, first));
    if (!HALF) store(out[h] + kLanes, fma(load(out[h] + kLanes), alpha, second));
  }
}

void sum_latents(const Plan& plan, const uint16_t* entries, int32_t count, const TileMemory& memory,
                 const Accumulators& into) {
  const int64_t heads = plan.args.heads, rank = plan.args.kv_lora_rank;
  const auto* probabilities = reinterpret_cast<const uint16_t*>(memory.weights);
  for (int64_t head = 0; head < heads; head += kHeadRows) {
    const int num_heads = static_cast<int>(std::min<int64_t>(kHeadRows, heads - head));
    const uint16_t* weights[kHeadRows];
    for (int h = 0; h < kHeadRows; ++h) weights[h] = probabilities + (head + std::min(h, num_heads - 1)) * kTileKeys;
    for (int64_t dim = 0; dim < rank; dim += kDims) {
      float* out[kHeadRows];
      for (int h = 0; h < kHeadRows; ++h) out[h] = into.latents + (head + std::min(h, num_heads - 1)) * rank + dim;
      const auto run = dim + kDims <= rank ? sum_dims<kHeadRows, false> : sum_dims<kHeadRows, true>;
      run(weights, num_heads, entries + dim, plan.width, count, out, memory.alphas + head);
    }
  }
}

}  // namespace

void attend_tile_bf16(const Plan& plan, PageId page, PageId next, int32_t count, const TileMemory& memory,
                      const Accumulators& into) {
  const int64_t heads = plan.padded_heads();
  const int64_t row_bytes = plan.width * 2;
  const LatentCache& cache = plan.args.cache;
  const auto* entries = reinterpret_cast<const uint16_t*>(cache.base + value(page) * cache.page_stride);
  // Row by row beside this page's own: pages lie anywhere, and the hardware's prefetchers see only the rows of one.
  const auto fetch_next = [&](int64_t key) {
    if (next == kNoPage) return;
    const std::byte* row = cache.base + value(next) * cache.page_stride + key * row_bytes;
    for (int64_t i = 0; i < row_bytes; i += 64) _mm_prefetch(reinterpret_cast<const char*>(row + i), _MM_HINT_T1);
  };
  const auto row = [&](int64_t key) {
    fetch_next(key);
    return entries + key * plan.width;
  };
  multiply_pairs(count, row, 2, plan.width / 2,
                 {reinterpret_cast<const uint16_t*>(memory.queries), plan.width * kLanes}, plan.head_panels,
                 [&](int64_t key, int64_t p, F32x16 value) { store(memory.scores + key * heads + p * kLanes, value); });
  soften_tile(memory.scores, count, plan.head_panels, into, memory.alphas);
  // Two keys of 16 heads become 16 pairs; an odd last key is paired with zeros.
  for (int64_t p = 0; p < plan.head_panels; ++p) {
    for (int32_t key = 0; key < count; key += 2) {
      const float* at = memory.scores + key * heads + p * kLanes;
      alignas(64) uint32_t pairs[kLanes];
      store_bytes(pairs, pair_bf16(load(at), key + 1 < count ? load(at + heads) : zero()));
      for (int64_t lane = 0; lane < kLanes; ++lane)
        std::memcpy(memory.weights + ((p * kLanes + lane) * kTileKeys + key) * 2, &pairs[lane], sizeof(uint32_t));
    }
  }
  sum_latents(plan, entries, count, memory, into);
}

}  // namespace sluice::cpu::SLUICE_ISA::absorbed
