// One block of 256 positions of the absorbed form over an int8 cache (sluice/latent_codes.h): bytes by bytes into int32
// (quad_tile.h), one f32 addition a group of 128 values.
//
//   query    per head and group codes, a scale and -128 * (sum of the codes), which the keys' excess is taken off by;
//            made once a step, with heads in lanes: [quads][16 heads][4], [groups][16], [groups][16]
//   scores   S[key][head] = sum over groups, ascending, of  float(dot) * (scale of q * scale of key)
//   weights  per group g and head:  w = P * (scale of key);  code = w * 255 / max w, nearest even;  scale = max w / 255.
//            A byte, as the largest of a block has 255 steps and the others as many as they weigh: off by max w / 510,
//            so the sum of a block by some 0.1 % of itself where all weigh alike, and by less than 0.4 % of its largest
//            term where they do not.
//   sums     L[head][dims of g] = L * alpha + float(dot) * scale
//
// The pages' rows become quads of keys in registers, 64 latents at a time, 8 shuffles for 4 rows; the lanes stay in the
// order in which the shuffles leave them and are put in order when a row is done (ordered_latents):
//
//   64 latents d = 16 j + 4 v + i   ->   lane 4 j + i of vector v       j, v, i in [0, 4)
//
// A block is four pages: with one page a block its sums, 32 KiB for 16 heads, were read and written once a page, which
// took as long as the products. Next pages are fetched a line at a time between other work: all at once they held up
// every load behind them for 4 us of a page's 10.
//
// Products over 64 keys may read the bytes of positions that are not there: their weights are zeros. Their scales are
// not read.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/latent_attention_absorbed.h"
#include "kernels/cpu/quad_tile.h"

namespace sluice::cpu::SLUICE_ISA::absorbed {

namespace {

// Below this a tile's largest weight counts as none: its inverse might not be finite. P is at most 1 and somewhere 1,
// so sums lose nothing that their f32 could hold.
constexpr float kNoWeight = 1e-30f;

constexpr int64_t kPanelQuads = kBlockKeys / 4 * kQuadBytes;  // bytes of one panel of keys in quads

// Brings pages that come later into L2, a line at a time.
class Fetcher {
 public:
  Fetcher(const Plan& plan, std::span<const PageId> pages)
      : cache_(plan.args.cache), pages_(pages), page_bytes_(kTileKeys * plan.codes.entry_bytes()) {}

  void fetch(int lines) {
    for (; lines > 0 && !pages_.empty(); --lines) {
      const std::byte* page = cache_.base + value(pages_[0]) * cache_.page_stride;
      _mm_prefetch(reinterpret_cast<const char*>(page + offset_), _MM_HINT_T1);
      offset_ += 64;
      if (offset_ < page_bytes_) continue;
      offset_ = 0;
      pages_ = pages_.subspan(1);
    }
  }

 private:
  const LatentCache& cache_;
  std::span<const PageId> pages_;
  int64_t page_bytes_, offset_ = 0;
};

// A page's keys of 64 latents as [4 panels][16 quads][16 latents][4 keys], signed.
void make_quads(const uint8_t* codes, int64_t width, int64_t num_quads, int8_t* out) {
  for (int64_t quad = 0; quad < num_quads; ++quad, codes += 4 * width, out += kQuadBytes) {
    const I32x16 a = load_bytes(codes), b = load_bytes(codes + width), c = load_bytes(codes + 2 * width),
                 d = load_bytes(codes + 3 * width);
    const I32x16 ab_low = interleave_bytes_low(a, b), ab_high = interleave_bytes_high(a, b);
    const I32x16 cd_low = interleave_bytes_low(c, d), cd_high = interleave_bytes_high(c, d);
    store_bytes(out, flip_signs(interleave_low(ab_low, cd_low)));
    store_bytes(out + kPanelQuads, flip_signs(interleave_high(ab_low, cd_low)));
    store_bytes(out + 2 * kPanelQuads, flip_signs(interleave_low(ab_high, cd_high)));
    store_bytes(out + 3 * kPanelQuads, flip_signs(interleave_high(ab_high, cd_high)));
  }
}

// P [keys][heads] times the keys' scales, as bytes [heads][256] and a scale for each head. Pages' keys that are not
// there weigh nothing.
void weigh_block(const TileMemory& memory, const float* const* key_scales, int32_t count, int64_t head_panels) {
  const int64_t heads = head_panels * kLanes;
  for (int64_t p = 0; p < head_panels; ++p) {
    const float* column = memory.scores + p * kLanes;
    const auto weight = [&](int32_t key) {
      return load(column + key * heads) * broadcast(key_scales[key / kTileKeys][key % kTileKeys]);
    };
    F32x16 largest = zero(), second = zero();  // two chains: the latency of max, not its rate, would count
    int32_t pair = 0;
    for (; pair + 2 <= count; pair += 2) {
      largest = max(largest, weight(pair));
      second = max(second, weight(pair + 1));
    }
    if (pair < count) largest = max(largest, weight(pair));
    largest = max(largest, second);
    const F32x16 inverse = if_less(largest, broadcast(kNoWeight), zero(), broadcast(255.0f) / largest);
    store(memory.weight_scales + p * kLanes, largest / broadcast(255.0f));
    const auto code = [&](int32_t key) { return to_i32(weight(key) * inverse); };
    alignas(64) uint32_t quads[kBlockKeys / 4][kLanes];
    int32_t key = 0;
    for (; key + 4 <= count; key += 4)
      store_bytes(quads[key / 4],
                  code(key) | shift_left<8>(code(key + 1)) | shift_left<16>(code(key + 2)) | shift_left<24>(code(key + 3)));
    const int32_t end = (count + kTileKeys - 1) / kTileKeys * kTileKeys;
    for (; key < end; key += 4) {
      const auto some = [&](int32_t i) { return i < count ? code(i) : broadcast_i32(0); };
      store_bytes(quads[key / 4],
                  some(key) | shift_left<8>(some(key + 1)) | shift_left<16>(some(key + 2)) | shift_left<24>(some(key + 3)));
    }
    // [quads][heads] -> [heads][quads], a page's 16 quads at a time.
    for (int32_t page = 0; page < end; page += kTileKeys) {
      alignas(64) uint32_t rows[kLanes][kLanes];
      transpose_rows(quads[page / 4], kLanes, rows);
      for (int64_t head = 0; head < kLanes; ++head)
        std::memcpy(memory.weights + (p * kLanes + head) * kBlockKeys + page, rows[head], kTileKeys);
    }
  }
}

// Scores [count][heads] of one page.
void score_page(const Plan& plan, const CodePage& page, int32_t count, const TileMemory& memory, float* scores,
                Fetcher& next) {
  const LatentCodes& codes = plan.codes;
  const int64_t heads = plan.padded_heads(), panels = plan.head_panels, panel_bytes = plan.head_bytes() * kLanes;
  const auto scales_of = [&](int64_t p, int32_t g) {
    return reinterpret_cast<const float*>(memory.queries + p * panel_bytes + plan.query_code_bytes() * kLanes) +
           g * kLanes;
  };
  int64_t at = 0;  // bytes of a head's codes before the group
  for (int32_t g = 0; g < codes.num_groups(); ++g) {
    const int32_t begin = codes.begin(g), size = codes.begin(g + 1) - begin;
    const float* key_scales = page.scales + g * kTileKeys;
    for (int64_t p = 0; p < panels; ++p) {
      const F32x16 scale = load(scales_of(p, g));
      multiply_quads(count, {page.codes + begin, codes.width()}, (size + 3) / 4,
                     {reinterpret_cast<const int8_t*>(memory.queries + p * panel_bytes + at * kLanes), 0,
                      reinterpret_cast<const int32_t*>(scales_of(p, g + codes.num_groups()))},
                     1, [&](int64_t key, int64_t, I32x16 dot) {
                       next.fetch(1);
                       float* score = scores + key * heads + p * kLanes;
                       const F32x16 factor = scale * broadcast(key_scales[key]);
                       store(score, fma(to_f32(dot), factor, g == 0 ? zero() : load(score)));
                     });
    }
    at += group_bytes(size);
  }
}

}  // namespace

void quantize_query(const Plan& plan, const float* query, std::byte* out) {
  const LatentCodes& layout = plan.codes;
  auto* codes = reinterpret_cast<int8_t*>(out);
  auto* scales = reinterpret_cast<float*>(out + plan.query_code_bytes());
  auto* starts = reinterpret_cast<int32_t*>(scales + layout.num_groups());
  for (int32_t g = 0; g < layout.num_groups(); ++g) {
    const int64_t begin = layout.begin(g), size = layout.begin(g + 1) - begin;
    std::fill_n(codes, group_bytes(size), int8_t{0});
    const GroupCodes made = quantize_codes(query + begin, size, codes);
    scales[g] = made.scale;
    starts[g] = -LatentCodes::kExcess * made.sum;
    codes += group_bytes(size);
  }
}

void ordered_latents(const float* lanes, int64_t count, float* out) {
  for (int64_t d = 0; d < count; d += 4) {
    const int64_t chunk = d / 64 * 64, j = d % 64 / 16, v = d % 16 / 4;
    std::copy_n(lanes + chunk + v * kLanes + 4 * j, 4, out + d);
  }
}

void attend_block_int8(const Plan& plan, std::span<const PageId> pages, int32_t count, const TileMemory& memory,
                       const Accumulators& into) {
  const QuadTiles held;
  const LatentCodes& layout = plan.codes;
  const int64_t stride = plan.latent_stride(), heads = plan.padded_heads();
  const auto num_pages = static_cast<size_t>((count + kTileKeys - 1) / kTileKeys);
  Fetcher next(plan, pages.subspan(num_pages, std::min(pages.size() - num_pages, size_t{kBlockKeys / kTileKeys})));
  const auto keys_of = [&](size_t page) { return std::min(kTileKeys, count - static_cast<int32_t>(page) * kTileKeys); };
  const uint8_t* codes[kBlockKeys / kTileKeys];
  const float* scales[kBlockKeys / kTileKeys];
  for (size_t i = 0; i < num_pages; ++i) {
    const CodePage page(plan.args.cache, pages[i], layout);
    codes[i] = page.codes;
    scales[i] = page.scales;
    score_page(plan, page, keys_of(i), memory, memory.scores + static_cast<int64_t>(i) * kTileKeys * heads, next);
  }
  soften_tile(memory.scores, count, plan.head_panels, into, memory.alphas);
  for (int32_t g = 0; g < layout.latent_groups(); ++g) {
    weigh_block(memory, scales, count, plan.head_panels);
    for (int32_t d = layout.begin(g); d < layout.begin(g + 1); d += 64) {
      for (size_t i = 0; i < num_pages; ++i)
        make_quads(codes[i] + d, layout.width(), (keys_of(i) + 3) / 4,
                   memory.quads + static_cast<int64_t>(i) * kTileKeys / 4 * kQuadBytes);
      multiply_quads(plan.args.heads, {reinterpret_cast<const uint8_t*>(memory.weights), kBlockKeys}, (count + 3) / 4,
                     {memory.quads, kPanelQuads}, 64 / kLanes, [&](int64_t head, int64_t p, I32x16 dot) {
                       next.fetch(3);
                       float* out = into.latents + head * stride + d + p * kLanes;
                       const F32x16 part = to_f32(dot) * broadcast(memory.weight_scales[head]);
                       store(out, fma(load(out), broadcast(memory.alphas[head]), part));
                     });
    }
    for (size_t i = 0; i < num_pages; ++i) scales[i] += kTileKeys;
  }
}

}  // namespace sluice::cpu::SLUICE_ISA::absorbed
