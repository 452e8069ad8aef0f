// One partition of the absorbed form over a bf16 cache on AMX: four pages with one softmax.
//
//   scores   16 entries, as they lie in the page (rows of pairs of dims), times the query pairs [width / 2][16 heads][2]
//   P        exp(scores - peak) in bf16, blocks of [16 heads][16 key pairs]
//   sums     P times the entries as pairs of keys, 64 dims at a time: [128 key pairs][16 dims][2], interleaved into
//            scratch as in latent_attention_absorbed_bf16.cc (its picture), so a register of sums holds dims
//            0-3 8-11 16-19 24-27 and its neighbour the others
//
// For 16 heads of 512 + 64 dims a page takes 72 + 64 tile instructions of 16 cycles and 2k shuffles and moves, where
// dot2 takes 35k instructions.
#include <algorithm>

#include "kernels/cpu/latent_attention_absorbed.h"
#include "kernels/cpu/pair_amx.h"

#if defined(__AMX_BF16__)

namespace sluice::cpu::SLUICE_ISA::absorbed {

namespace {

constexpr int64_t kPairs = kPartitionKeys / 2;
constexpr int64_t kChunkDims = kSumDims;
constexpr int64_t kHalf = 2 * kLanes;  // dims that one register of 16-bit elements holds

const uint16_t* entries_of(const LatentCache& cache, PageId page) {
  return reinterpret_cast<const uint16_t*>(cache.base + value(page) * cache.page_stride);
}

// Brings pages of the row that come later near, a little at a time. (Into L2 alone, and with the partition's own pages
// asked for once more while its scores are made, a row behind 16,384 took a quarter longer; each of them by itself a tenth,
// in an hour when rounds differed by more.)
class PageFetcher {
 public:
  PageFetcher(const Plan& plan, std::span<const PageId> pages)
      : cache_(plan.args.cache), pages_(pages), lines_(kTileKeys * plan.width * 2 / 64) {}

  void fetch(int64_t lines) {
    for (; lines > 0 && page_ < pages_.size(); --lines) {
      const std::byte* page = cache_.base + value(pages_[page_]) * cache_.page_stride;
      _mm_prefetch(reinterpret_cast<const char*>(page + line_ * 64), _MM_HINT_T0);
      if (++line_ < lines_) continue;
      line_ = 0;
      page_ += 1;
    }
  }

 private:
  const LatentCache& cache_;
  std::span<const PageId> pages_;
  int64_t lines_, line_ = 0;
  size_t page_ = 0;
};

// Probabilities of panel p's heads, keys at or beyond `count` being 0.
void block_weights(const float* scores, int64_t heads, int64_t panel, int32_t count, uint16_t* weights) {
  for (int32_t step = 0; step * 2 * kAmxPairs < count; ++step) {
    alignas(64) uint16_t pairs[kAmxPairs * kPairElements];
    for (int64_t i = 0; i < kAmxPairs; ++i) {
      const int64_t key = (step * kAmxPairs + i) * 2;
      const float* at = scores + key * heads + panel * kLanes;
      store_bytes(pairs + i * kPairElements,
                  pair_bf16(key < count ? load(at) : zero(), key + 1 < count ? load(at + heads) : zero()));
    }
    transpose_rows(pairs, kAmxPairs, weights + step * kAmxPairs * kPairElements);
  }
}

// Dims [dim, dim + num_dims) of all keys as pairs of keys: [2 panels per 32 dims][128 pairs][16][2].
void pair_keys(const Plan& plan, std::span<const PageId> pages, int32_t count, int64_t dim, int64_t num_dims,
               uint16_t* pairs, PageFetcher& fetcher, int64_t lines) {
  const auto end = static_cast<int64_t>(amx_steps((count + 1) / 2) * kAmxPairs);
  for (int64_t pair = 0; pair < end; ++pair) {
    fetcher.fetch(lines);
    const int64_t key = 2 * pair;
    const uint16_t* first = nullptr;
    if (key < count)
      first = entries_of(plan.args.cache, pages[static_cast<size_t>(key / kTileKeys)]) + key % kTileKeys * plan.width + dim;
    for (int64_t half = 0; half < num_dims; half += kHalf) {
      const auto read = [&](const uint16_t* p) { return num_dims - half < kHalf ? load_half(p) : load_bytes(p); };
      const I32x16 a = first ? read(first + half) : broadcast_i32(0);
      const I32x16 b = key + 1 < count ? read(first + plan.width + half) : broadcast_i32(0);
      uint16_t* to = pairs + (half / kLanes * kPairs + pair) * kPairElements;
      store_bytes(to, interleave_low(a, b));
      store_bytes(to + kPairs * kPairElements, interleave_high(a, b));
    }
  }
}

}  // namespace

void attend_partition_bf16(const Plan& plan, std::span<const PageId> pages, int32_t count, const TileMemory& memory,
                           const Accumulators& into) {
  const int64_t heads = plan.padded_heads(), rank = plan.args.kv_lora_rank;
  AmxPairs tiles;
  const PairWeights queries{reinterpret_cast<const uint16_t*>(memory.queries), plan.width * kLanes};
  for (int32_t key = 0; key < count; key += kLanes) {
    const uint16_t* entries = entries_of(plan.args.cache, pages[static_cast<size_t>(key / kTileKeys)]);
    tiles.multiply(plain_rows(entries + key % kTileKeys * plan.width, plan.width), plan.width / 2, queries,
                   plan.head_panels, memory.scores + key * heads, heads);
  }
  soften_tile(memory.scores, count, plan.head_panels, into, memory.alphas);
  auto* weights = reinterpret_cast<uint16_t*>(memory.weights);
  const auto panel_weights = [&](int64_t panel) { return weights + panel * kLanes * kPartitionKeys; };
  for (int64_t panel = 0; panel < plan.head_panels; ++panel)
    block_weights(memory.scores, heads, panel, count, panel_weights(panel));

  // The partition that this thread will find next, if all are as fast, comes into L2 meanwhile.
  constexpr size_t kPages = kPartitionKeys / kTileKeys;
  const size_t ahead = std::min(pages.size(), kPages * static_cast<size_t>(plan.num_threads));
  PageFetcher partition(plan, pages.subspan(ahead, std::min(pages.size() - ahead, kPages)));
  const int64_t lines = kPartitionKeys * plan.width * 2 / 64 / (kPairs * ((rank + kChunkDims - 1) / kChunkDims)) + 1;
  const int64_t num_pairs = amx_steps((count + 1) / 2) * kAmxPairs;
  for (int64_t dim = 0; dim < rank; dim += kChunkDims) {
    const int64_t num_dims = std::min(kChunkDims, rank - dim);
    pair_keys(plan, pages, count, dim, num_dims, memory.pairs, partition, lines);
    const int64_t panels = (num_dims + kHalf - 1) / kHalf * 2;
    for (int64_t panel = 0; panel < plan.head_panels; ++panel) {
      tiles.multiply(blocked_rows(panel_weights(panel)), num_pairs, {memory.pairs, kPairs * kPairElements}, panels,
                     memory.product, kChunkDims);
      for (int64_t h = 0; h < std::min<int64_t>(kLanes, plan.args.heads - panel * kLanes); ++h) {
        float* out = into.latents + (panel * kLanes + h) * rank + dim;
        for (int64_t half = 0; half < num_dims; half += kHalf) {
          const float* sums = memory.product + h * kChunkDims + half;
          F32x16 first, second;
          order_interleaved(load(sums), load(sums + kLanes), &first, &second);
          store(out + half, first);
          if (num_dims - half > kLanes) store(out + half + kLanes, second);
        }
      }
    }
  }
}

}  // namespace sluice::cpu::SLUICE_ISA::absorbed

#endif
