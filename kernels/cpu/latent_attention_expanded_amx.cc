// Attention of prompt tokens over a bf16 cache on AMX: the stages and roundings of latent_attention_expanded_bf16.cc,
// 16 rows at a time, with the order of sums of pair_amx.h. What the tiles read:
//
//   C^T  [4 key panels][width / 2 pairs][16 keys]           the page, transposed by 32-bit pairs
//   K_h  [nope panels] blocks of [16 dims][16 pairs]        once per head; as rows, so that K^T comes out dims by keys:
//   K    [4 key panels][(nope + rope) / 2 pairs][16 keys]   two rows of K^T and one of pairs; the rotary part is C^T's
//   V    [v panels][32 key pairs][16 values]                rows of C times V_h^T, two keys and one row of pairs
#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/latent_code_page.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/pair_amx.h"
#include "kernels/cpu/running_softmax.h"

#if defined(__AMX_BF16__)

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int64_t kRows = 16;

int64_t round_up(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Dimensions in pairs; an odd nope_dim is filled up with a zero.
struct Dims {
  int64_t width_pairs, latent_pairs, nope_pairs, rope_pairs, nope_panels, v_stride;

  explicit Dims(const LatentAttentionArgs& args)
      : width_pairs((args.kv_lora_rank + args.rope_dim) / 2),
        latent_pairs(args.kv_lora_rank / 2),
        nope_pairs((args.nope_dim + 1) / 2),
        rope_pairs(args.rope_dim / 2),
        nope_panels(round_up(args.nope_dim) / kLanes),
        v_stride(round_up(args.v_dim)) {}
  int64_t key_pairs() const { return nope_pairs + rope_pairs; }
  int64_t query_stride() const { return key_pairs() * 2; }
  int64_t block_panel() const { return amx_steps(latent_pairs) * kAmxPairs * kPairElements; }
};

// One thread's memory.
struct Workspace {
  uint16_t* tail;        // [64, width] entries of a page that is not full, zeros behind them
  uint16_t* transposed;  // C^T
  uint16_t* key_rows;    // K_h
  uint16_t* keys;        // K
  uint16_t* values;      // V
  uint16_t* queries;     // [rows + 15, query_stride] of the head at hand
  float* product;        // [16, max(64, v_stride)]
  uint16_t* weights;     // [16, 64] the probabilities in bf16
  float* row_max;        // [rows]
  float* row_sum;        // [rows]
  float* out;            // [rows, v_stride]

  Workspace(Carver& carver, const Dims& dims, int64_t max_rows)
      : tail(carver.take<uint16_t>(kTileKeys * dims.width_pairs * 2)),
        transposed(carver.take<uint16_t>(kTileKeys * dims.width_pairs * 2)),
        key_rows(carver.take<uint16_t>(dims.nope_panels * dims.block_panel())),
        keys(carver.take<uint16_t>(kTileKeys * dims.key_pairs() * 2)),
        values(carver.take<uint16_t>(kTileKeys * dims.v_stride)),
        queries(carver.take<uint16_t>((max_rows + kRows - 1) * dims.query_stride())),
        product(carver.take<float>(kRows * std::max<int64_t>(kTileKeys, dims.v_stride))),
        weights(carver.take<uint16_t>(kRows * kTileKeys)),
        row_max(carver.take<float>(max_rows)),
        row_sum(carver.take<float>(max_rows)),
        out(carver.take<float>(max_rows * dims.v_stride)) {}
};

struct HeadSpan {
  const LatentAttentionArgs& args;
  const Dims& dims;
  const SequenceSpan& span;
  int32_t head;
  const Workspace& work;
  AmxPairs& tiles;

  int64_t num_rows() const { return span.position_end - span.position_begin; }
};

void round_queries(const HeadSpan& at) {
  const LatentAttentionArgs& args = at.args;
  const auto put = [](const float* from, int64_t count, uint16_t* to) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store_bf16(to + i, load(from + i));
    for (; i < count; ++i) to[i] = f32_to_bf16(from[i]);
  };
  for (int64_t row = 0; row < at.num_rows(); ++row) {
    const float* query = args.q + ((at.span.row_begin + row) * args.heads + at.head) * (args.nope_dim + args.rope_dim);
    uint16_t* out = at.work.queries + row * at.dims.query_stride();
    put(query, args.nope_dim, out);
    if (args.nope_dim % 2 != 0) out[args.nope_dim] = 0;
    put(query + args.nope_dim, args.rope_dim, out + at.dims.nope_pairs * 2);
  }
}

// Entries of the tile as 64 rows; those at or beyond `count` are zeros (their probability is exactly 0, but 0 * garbage
// might be NaN).
const uint16_t* tile_entries(const HeadSpan& at, PageId page, int32_t count) {
  const LatentCache& cache = at.args.cache;
  const auto* entries = reinterpret_cast<const uint16_t*>(cache.base + value(page) * cache.page_stride);
  const int64_t width = at.dims.width_pairs * 2;
  if (cache.dtype == DType::kI8) {
    const LatentCodes layout{at.args.kv_lora_rank, at.args.rope_dim};
    for (int64_t key = 0; key < count; ++key)
      widen_codes(layout, CodePage(cache, page, layout), key, at.work.tail + key * width);
  } else if (count == kTileKeys) {
    return entries;
  } else {
    std::copy(entries, entries + count * width, at.work.tail);
  }
  std::fill(at.work.tail + count * width, at.work.tail + kTileKeys * width, uint16_t{0});
  return at.work.tail;
}

// Two rows of a product [16][num_panels * 16] become one row of pairs: row 2 i and 2 i + 1 of panel p go to
// out + p * panel_stride + i * 32.
void store_pairs(const float* product, int64_t product_stride, int64_t num_rows, int64_t num_panels, uint16_t* out,
                 int64_t panel_stride) {
  for (int64_t p = 0; p < num_panels; ++p) {
    for (int64_t r = 0; r < num_rows; r += 2) {
      const float* from = product + r * product_stride + p * kLanes;
      store_bytes(out + p * panel_stride + r / 2 * kPairElements,
                  pair_bf16(load(from), r + 1 < num_rows ? load(from + product_stride) : zero()));
    }
  }
}

void expand_keys(const HeadSpan& at, const uint16_t* entries) {
  const LatentAttentionArgs& args = at.args;
  const Dims& dims = at.dims;
  const Workspace& work = at.work;
  for (int64_t panel = 0; panel < kKeyPanels; ++panel)
    transpose_rows(entries + panel * kLanes * dims.width_pairs * 2, dims.width_pairs,
                   work.transposed + panel * dims.width_pairs * kPairElements);
  const int64_t source_stride = dims.width_pairs * kPairElements, stride = dims.key_pairs() * kPairElements;
  for (int64_t panel = 0; panel < dims.nope_panels; ++panel) {
    at.tiles.multiply(blocked_rows(work.key_rows + panel * dims.block_panel()), dims.latent_pairs,
                      {work.transposed, source_stride}, kKeyPanels, work.product, kTileKeys);
    store_pairs(work.product, kTileKeys, std::min<int64_t>(kLanes, args.nope_dim - panel * kLanes), kKeyPanels,
                work.keys + panel * kLanes / 2 * kPairElements, stride);
  }
  for (int64_t panel = 0; panel < kKeyPanels; ++panel)
    std::copy_n(work.transposed + panel * source_stride + dims.latent_pairs * kPairElements,
                dims.rope_pairs * kPairElements, work.keys + panel * stride + dims.nope_pairs * kPairElements);
}

void expand_values(const HeadSpan& at, const uint16_t* entries) {
  const Dims& dims = at.dims;
  const int64_t width = dims.width_pairs * 2;
  for (int64_t key = 0; key < kTileKeys; key += kRows) {
    at.tiles.multiply(plain_rows(entries + key * width, width), dims.latent_pairs,
                      pair_panels(at.args.v_up[static_cast<size_t>(at.head)]), dims.v_stride / kLanes, at.work.product,
                      dims.v_stride);
    store_pairs(at.work.product, dims.v_stride, kRows, dims.v_stride / kLanes, at.work.values + key * kLanes,
                kTileKeys * kLanes);
  }
}

// Folds the tile into rows [row0, row0 + num_rows) of the span, at most 16.
void attend_rows(const HeadSpan& at, int32_t tile_begin, int64_t row0, int64_t num_rows) {
  const Workspace& work = at.work;
  const int64_t stride = at.dims.query_stride(), v_stride = at.dims.v_stride;
  at.tiles.multiply(plain_rows(work.queries + row0 * stride, stride), at.dims.key_pairs(),
                    {work.keys, at.dims.key_pairs() * kPairElements}, kKeyPanels, work.product, kTileKeys);
  float alpha[kRows];
  for (int64_t r = 0; r < num_rows; ++r) {
    const int32_t num_open = at.span.position_begin + static_cast<int32_t>(row0 + r) + 1 - tile_begin;
    float* scores = work.product + r * kTileKeys;
    alpha[r] = soften(scores, num_open, at.args.scale, work.row_max + row0 + r, work.row_sum + row0 + r);
    for (int64_t i = 0; i < kTileKeys; i += kLanes) store_bf16(work.weights + r * kTileKeys + i, load(scores + i));
  }
  at.tiles.multiply(plain_rows(work.weights, kTileKeys), kTileKeys / 2, {work.values, kTileKeys * kLanes},
                    v_stride / kLanes, work.product, v_stride);
  for (int64_t r = 0; r < num_rows; ++r) {
    float* out = work.out + (row0 + r) * v_stride;
    for (int64_t i = 0; i < v_stride; i += kLanes)
      store(out + i, fma(load(out + i), broadcast(alpha[r]), load(work.product + r * v_stride + i)));
  }
}

void attend_head(const HeadSpan& at) {
  const Workspace& work = at.work;
  const int64_t num_rows = at.num_rows();
  round_queries(at);
  const PairWeights k_up = pair_panels(at.args.k_up[static_cast<size_t>(at.head)]);
  for (int64_t panel = 0; panel < at.dims.nope_panels; ++panel)
    block_lanes(k_up.data + panel * k_up.panel_stride, at.dims.latent_pairs,
                work.key_rows + panel * at.dims.block_panel());
  std::fill(work.row_max, work.row_max + num_rows, kClosed);
  std::fill(work.row_sum, work.row_sum + num_rows, 0.0f);
  std::fill(work.out, work.out + num_rows * at.dims.v_stride, 0.0f);
  for (int32_t tile_begin = 0; tile_begin < at.span.position_end; tile_begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, at.span.position_end - tile_begin);
    const uint16_t* entries = tile_entries(at, at.span.pages[tile_begin / kTileKeys], count);
    expand_keys(at, entries);
    expand_values(at, entries);
    for (int64_t row = std::max(0, tile_begin - at.span.position_begin); row < num_rows; row += kRows)
      attend_rows(at, tile_begin, row, std::min(kRows, num_rows - row));
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    const F32x16 total = broadcast(work.row_sum[row]);
    float* out = at.args.out + ((at.span.row_begin + row) * at.args.heads + at.head) * at.args.v_dim;
    for (int64_t i = 0; i < at.args.v_dim; i += kLanes)
      store_first(out + i, load(work.out + row * at.dims.v_stride + i) / total,
                  std::min<int64_t>(kLanes, at.args.v_dim - i));
  }
}

}  // namespace

void latent_attention_expanded_bf16(const LatentAttentionArgs& args, OpContext& context) {
  const Dims dims(args);
  int64_t max_rows = 0;
  for (const SequenceSpan& span : args.sequences)
    max_rows = std::max<int64_t>(max_rows, span.position_end - span.position_begin);
  Carver one;
  Workspace(one, dims, max_rows);
  std::byte* memory = context.scratch.reserve(one.bytes() * static_cast<size_t>(context.team.size()));
  const int64_t units = static_cast<int64_t>(args.sequences.size()) * args.heads;
  context.team.parallel_for(units, 1, [&](int64_t begin, int64_t end, int rank) {
    Carver carver(memory + static_cast<size_t>(rank) * one.bytes());
    const Workspace work(carver, dims, max_rows);
    AmxPairs tiles;
    for (int64_t unit = begin; unit < end; ++unit)
      attend_head({args, dims, args.sequences[static_cast<size_t>(unit / args.heads)],
                   static_cast<int32_t>(unit % args.heads), work, tiles});
  });
}

}  // namespace sluice::cpu::SLUICE_ISA

#endif
