// Attention of prompt tokens over a bf16 cache: the stages of latent_attention_expanded.cc with bf16 operands and f32
// sums. Over an int8 cache, too, whose entries are rounded to bf16 a tile at a time, for each head again. Keys and values
// are expanded straight into the pair layout that the next product reads (pair_tile.h):
//
//   C^T  [4 key panels][width / 2 pairs][16 keys]          the page, transposed by 32-bit pairs
//   K    [4 key panels][(nope + rope) / 2 pairs][16 keys]  rows of K_h times C^T; the rotary part is C^T's own
//   V    [v panels][32 key pairs][16 values]               rows of C times V_h^T
//   S = q K^T * scale, P = exp(S - max) rounded to bf16, O = O * alpha + P V          12 rows at a time
//
// What is rounded: q, K, V and P; the normalising sums take P before its rounding.
#include <algorithm>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/latent_code_page.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/running_softmax.h"

#if !defined(__AMX_BF16__)  // latent_attention_expanded_amx.cc

namespace sluice::cpu::SLUICE_ISA {

namespace {

int64_t round_up(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Dimensions in pairs; an odd nope_dim is filled up with a zero.
struct Dims {
  int64_t width_pairs, nope_pairs, rope_pairs, v_stride;

  explicit Dims(const LatentAttentionArgs& args)
      : width_pairs((args.kv_lora_rank + args.rope_dim) / 2),
        nope_pairs((args.nope_dim + 1) / 2),
        rope_pairs(args.rope_dim / 2),
        v_stride(round_up(args.v_dim)) {}
  int64_t key_pairs() const { return nope_pairs + rope_pairs; }
  int64_t query_stride() const { return key_pairs() * 2; }
};

// One thread's memory.
struct Workspace {
  uint16_t* tail;        // [64, width] entries of a page that is not full, zeros behind them
  uint16_t* transposed;  // [4 panels][width pairs][16 keys][2]
  uint16_t* keys;        // [4 panels][key pairs][16 keys][2]
  uint16_t* values;      // [v panels][32][16 values][2]
  uint16_t* queries;     // [rows, query_stride] of the head at hand
  float* scores;         // [kPairRows, 64]
  uint16_t* weights;     // [kPairRows, 64] the probabilities in bf16
  float* row_max;        // [rows]
  float* row_sum;        // [rows]
  float* out;            // [rows, v_stride]

  Workspace(Carver& carver, const Dims& dims, int64_t max_rows)
      : tail(carver.take<uint16_t>(kTileKeys * dims.width_pairs * 2)),
        transposed(carver.take<uint16_t>(kTileKeys * dims.width_pairs * 2)),
        keys(carver.take<uint16_t>(kTileKeys * dims.key_pairs() * 2)),
        values(carver.take<uint16_t>(kTileKeys * dims.v_stride)),
        queries(carver.take<uint16_t>(max_rows * dims.query_stride())),
        scores(carver.take<float>(kPairRows * kTileKeys)),
        weights(carver.take<uint16_t>(kPairRows * kTileKeys)),
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

void transpose(const HeadSpan& at, const uint16_t* entries) {
  const int64_t pairs = at.dims.width_pairs;
  for (int64_t panel = 0; panel < kKeyPanels; ++panel)
    transpose_rows(entries + panel * kLanes * pairs * 2, pairs, at.work.transposed + panel * pairs * kPairElements);
}

void expand_keys(const HeadSpan& at) {
  const LatentAttentionArgs& args = at.args;
  const Dims& dims = at.dims;
  const PairWeights k_up = pair_panels(args.k_up[static_cast<size_t>(at.head)]);
  const int64_t source_stride = dims.width_pairs * kPairElements, stride = dims.key_pairs() * kPairElements;
  // Row d of K_h lies in lane d % 16 of its panel.
  const auto row = [&](int64_t d) { return k_up.data + d / kLanes * k_up.panel_stride + d % kLanes * 2; };
  multiply_into_pairs(args.nope_dim, row, kPairElements, args.kv_lora_rank / 2, {at.work.transposed, source_stride},
                      kKeyPanels, at.work.keys, stride);
  for (int64_t panel = 0; panel < kKeyPanels; ++panel)
    std::copy_n(at.work.transposed + panel * source_stride + args.kv_lora_rank / 2 * kPairElements,
                dims.rope_pairs * kPairElements, at.work.keys + panel * stride + dims.nope_pairs * kPairElements);
}

void expand_values(const HeadSpan& at, const uint16_t* entries) {
  multiply_into_pairs(
      kTileKeys, [&](int64_t key) { return entries + key * at.dims.width_pairs * 2; }, 2, at.args.kv_lora_rank / 2,
      pair_panels(at.args.v_up[static_cast<size_t>(at.head)]), at.dims.v_stride / kLanes, at.work.values,
      kTileKeys * kLanes);
}

// Folds the tile into rows [row0, row0 + num_rows) of the span.
void attend_rows(const HeadSpan& at, int32_t tile_begin, int64_t row0, int64_t num_rows) {
  const Workspace& work = at.work;
  const int64_t stride = at.dims.query_stride();
  multiply_pairs(
      num_rows, [&](int64_t r) { return work.queries + (row0 + r) * stride; }, 2, at.dims.key_pairs(),
      {work.keys, at.dims.key_pairs() * kPairElements}, kKeyPanels,
      [&](int64_t r, int64_t p, F32x16 value) { store(work.scores + r * kTileKeys + p * kLanes, value); });
  float alpha[kPairRows];
  for (int64_t r = 0; r < num_rows; ++r) {
    const int32_t num_open = at.span.position_begin + static_cast<int32_t>(row0 + r) + 1 - tile_begin;
    float* scores = work.scores + r * kTileKeys;
    alpha[r] = soften(scores, num_open, at.args.scale, work.row_max + row0 + r, work.row_sum + row0 + r);
    for (int64_t i = 0; i < kTileKeys; i += kLanes) store_bf16(work.weights + r * kTileKeys + i, load(scores + i));
  }
  multiply_pairs(
      num_rows, [&](int64_t r) { return work.weights + r * kTileKeys; }, 2, kTileKeys / 2,
      {work.values, kTileKeys * kLanes}, at.dims.v_stride / kLanes,
      [&](int64_t r, int64_t p, F32x16 value) {
        float* out = work.out + (row0 + r) * at.dims.v_stride + p * kLanes;
        store(out, fma(load(out), broadcast(alpha[r]), value));
      });
}

void attend_head(const HeadSpan& at) {
  const Workspace& work = at.work;
  const int64_t num_rows = at.num_rows();
  round_queries(at);
  std::fill(work.row_max, work.row_max + num_rows, kClosed);
  std::fill(work.row_sum, work.row_sum + num_rows, 0.0f);
  std::fill(work.out, work.out + num_rows * at.dims.v_stride, 0.0f);
  for (int32_t tile_begin = 0; tile_begin < at.span.position_end; tile_begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, at.span.position_end - tile_begin);
    const uint16_t* entries = tile_entries(at, at.span.pages[tile_begin / kTileKeys], count);
    transpose(at, entries);
    expand_keys(at);
    expand_values(at, entries);
    for (int64_t row = std::max(0, tile_begin - at.span.position_begin); row < num_rows; row += kPairRows)
      attend_rows(at, tile_begin, row, std::min<int64_t>(kPairRows, num_rows - row));
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
    for (int64_t unit = begin; unit < end; ++unit)
      attend_head({args, dims, args.sequences[static_cast<size_t>(unit / args.heads)],
                   static_cast<int32_t>(unit % args.heads), work});
  });
}

}  // namespace sluice::cpu::SLUICE_ISA

#endif
