// One tile of the absorbed form over an int8 cache (sluice/latent_codes.h): bytes by bytes into int32 (quad_tile.h), one
// f32 addition a group of 128 values.
//
//   query    per head and group codes, a scale and -128 * (sum of the codes), which the keys' excess is taken off by;
//            made once a step, with heads in lanes: [quads][16 heads][4], [groups][16], [groups][16]
//   scores   S[key][head] = sum over groups, ascending, of  float(dot) * (scale of q * scale of key)
//   weights  per group g and head:  w = P * (scale of key);  code = w * 255 / max w, nearest even;  scale = max w / 255.
//            A byte, as the largest of a tile's 64 counts with 255 steps and the others with as many as they weigh: off
//            by max w / 510, so a tile's sum by some 0.1 % of itself where all weigh alike, and by less than 0.2 % of
//            its largest term where they do not.
//   sums     L[head][dims of g] = L * alpha + float(dot) * scale
//
// The page's rows become quads of keys in registers, 64 latents at a time, 8 shuffles for 4 rows; the lanes stay in the
// order in which the shuffles leave them and are put in order when a row is done (ordered_latents):
//
//   64 latents d = 16 j + 4 v + i   ->   lane 4 j + i of vector v       j, v, i in [0, 4)
//
// A sum over 64 keys may read the bytes of positions that are not there: their weights are zeros. Their scales are not
// read.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/latent_attention_absorbed.h"
#include "kernels/cpu/quad_tile.h"

namespace sluice::cpu::SLUICE_ISA::absorbed {

namespace {

// Below this a tile's largest weight counts as none: its inverse might not be finite. P is at most 1 and somewhere 1,
// so sums lose nothing that their f32 could hold.
constexpr float kNoWeight = 1e-30f;

// 64 keys of 64 latents as [4 panels][16 quads][16 latents][4 keys], signed.
void make_quads(const uint8_t* codes, int64_t width, int64_t num_quads, int8_t* out) {
  constexpr int64_t kPanel = kTileKeys / 4 * kQuadBytes;
  for (int64_t quad = 0; quad < num_quads; ++quad, codes += 4 * width, out += kQuadBytes) {
    const I32x16 a = load_bytes(codes), b = load_bytes(codes + width), c = load_bytes(codes + 2 * width),
                 d = load_bytes(codes + 3 * width);
    const I32x16 ab_low = interleave_bytes_low(a, b), ab_high = interleave_bytes_high(a, b);
    const I32x16 cd_low = interleave_bytes_low(c, d), cd_high = interleave_bytes_high(c, d);
    store_bytes(out, flip_signs(interleave_low(ab_low, cd_low)));
    store_bytes(out + kPanel, flip_signs(interleave_high(ab_low, cd_low)));
    store_bytes(out + 2 * kPanel, flip_signs(interleave_low(ab_high, cd_high)));
    store_bytes(out + 3 * kPanel, flip_signs(interleave_high(ab_high, cd_high)));
  }
}

// P [keys][heads] times the keys' scales, as bytes [heads][64] and a scale for each head.
void weigh_tile(const TileMemory& memory, const float* key_scales, int32_t count, int64_t head_panels,
                float* weight_scales) {
  const int64_t heads = head_panels * kLanes;
  for (int64_t p = 0; p < head_panels; ++p) {
    const float* column = memory.scores + p * kLanes;
    F32x16 largest = zero();
    for (int32_t key = 0; key < count; ++key)
      largest = max(largest, load(column + key * heads) * broadcast(key_scales[key]));
    const F32x16 inverse =
        if_less(largest, broadcast(kNoWeight), zero(), broadcast(255.0f) / largest);
    store(weight_scales + p * kLanes, largest / broadcast(255.0f));
    const auto code = [&](int32_t key) {
      if (key >= count) return broadcast_i32(0);
      return to_i32(load(column + key * heads) * broadcast(key_scales[key]) * inverse);
    };
    alignas(64) uint32_t quads[kTileKeys / 4][kLanes];
    for (int32_t key = 0; key < kTileKeys; key += 4)
      store_bytes(quads[key / 4], code(key) | shift_left<8>(code(key + 1)) | shift_left<16>(code(key + 2)) |
                                      shift_left<24>(code(key + 3)));
    transpose_rows(quads, kLanes, memory.weights + p * kLanes * kTileKeys);
  }
}

void score_tile(const Plan& plan, const CodePage& page, int32_t count, const TileMemory& memory) {
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
                       float* score = memory.scores + key * heads + p * kLanes;
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

void attend_tile_int8(const Plan& plan, PageId page_id, PageId next, int32_t count, const TileMemory& memory,
                      const Accumulators& into) {
  const QuadTiles held;
  const LatentCodes& layout = plan.codes;
  const CodePage page(plan.args.cache, page_id, layout);
  const int64_t width = layout.width(), stride = plan.latent_stride();
  if (next != kNoPage) {  // pages lie anywhere, and the hardware's prefetchers see only the rows of one
    const std::byte* from = plan.args.cache.base + value(next) * plan.args.cache.page_stride;
    for (int64_t i = 0; i < kTileKeys * layout.entry_bytes(); i += 64)
      _mm_prefetch(reinterpret_cast<const char*>(from + i), _MM_HINT_T1);
  }
  score_tile(plan, page, count, memory);
  soften_tile(memory.scores, count, plan.head_panels, into, memory.alphas);
  const int64_t num_quads = (count + 3) / 4;
  for (int32_t g = 0; g < layout.latent_groups(); ++g) {
    const int64_t begin = layout.begin(g), padded = group_bytes(layout.begin(g + 1) - begin);
    weigh_tile(memory, page.scales + g * kTileKeys, count, plan.head_panels, memory.weight_scales);
    for (int64_t d = 0; d < padded; d += 64)
      make_quads(page.codes + begin + d, width, num_quads, memory.quads + d * kTileKeys);
    multiply_quads(plan.args.heads, {reinterpret_cast<const uint8_t*>(memory.weights), kTileKeys}, num_quads,
                   {memory.quads, kTileKeys / 4 * kQuadBytes}, padded / kLanes,
                   [&](int64_t head, int64_t p, I32x16 dot) {
                     float* out = into.latents + head * stride + begin + p * kLanes;
                     const F32x16 part = to_f32(dot) * broadcast(memory.weight_scales[head]);
                     store(out, fma(load(out), broadcast(memory.alphas[head]), part));
                   });
  }
}

}  // namespace sluice::cpu::SLUICE_ISA::absorbed
