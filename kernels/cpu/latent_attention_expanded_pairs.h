// What the two kernels of the expanded form over a bf16 or int8 cache share (latent_attention_expanded_bf16.cc and
// _amx.cc): the queries in pairs, a page's entries, and the walk over sequences, heads and pages. A kernel brings what
// it expands a page into and how it folds that into rows.
//
// An int8 cache's entries are rounded to bf16 a tile at a time, for each head again.
#pragma once

#include <algorithm>

#include "kernels/cpu/carver.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/latent_code_page.h"
#include "kernels/cpu/pair_tile.h"
#include "kernels/cpu/running_softmax.h"

namespace sluice::cpu::SLUICE_ISA::expanded {

inline int64_t round_up(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// Dimensions in pairs; an odd nope_dim is filled up with a zero.
struct Dims {
  int64_t latent_pairs, rope_pairs, nope_pairs, v_stride;

  explicit Dims(const LatentAttentionArgs& args)
      : latent_pairs(args.kv_lora_rank / 2),
        rope_pairs(args.rope_dim / 2),
        nope_pairs((args.nope_dim + 1) / 2),
        v_stride(round_up(args.v_dim)) {}
  int64_t width_pairs() const { return latent_pairs + rope_pairs; }
  int64_t width() const { return width_pairs() * 2; }
  int64_t key_pairs() const { return nope_pairs + rope_pairs; }
  int64_t query_stride() const { return key_pairs() * 2; }
};

// One thread's memory for the rows of a head, `spare` of which are read but not used.
struct RowMemory {
  uint16_t* tail;     // [64, width] entries of a page that is not full, zeros behind them
  uint16_t* queries;  // [rows + spare, query_stride]
  float* row_max;     // [rows]
  float* row_sum;     // [rows]
  float* out;         // [rows, v_stride]

  RowMemory(Carver& carver, const Dims& dims, int64_t max_rows, int64_t spare)
      : tail(carver.take<uint16_t>(kTileKeys * dims.width())),
        queries(carver.take<uint16_t>((max_rows + spare) * dims.query_stride())),
        row_max(carver.take<float>(max_rows)),
        row_sum(carver.take<float>(max_rows)),
        out(carver.take<float>(max_rows * dims.v_stride)) {}
};

struct HeadSpan {
  const LatentAttentionArgs& args;
  const Dims& dims;
  const SequenceSpan& span;
  int32_t head;

  int64_t num_rows() const { return span.position_end - span.position_begin; }
  // Keys of the tile at `tile_begin` that row `row` may look at; any number.
  int32_t num_open(int64_t row, int32_t tile_begin) const {
    return span.position_begin + static_cast<int32_t>(row) + 1 - tile_begin;
  }
};

inline void round_queries(const HeadSpan& at, uint16_t* queries) {
  const LatentAttentionArgs& args = at.args;
  const auto put = [](const float* from, int64_t count, uint16_t* to) {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store_bf16(to + i, load(from + i));
    for (; i < count; ++i) to[i] = f32_to_bf16(from[i]);
  };
  for (int64_t row = 0; row < at.num_rows(); ++row) {
    const float* query = args.q + ((at.span.row_begin + row) * args.heads + at.head) * (args.nope_dim + args.rope_dim);
    uint16_t* out = queries + row * at.dims.query_stride();
    put(query, args.nope_dim, out);
    if (args.nope_dim % 2 != 0) out[args.nope_dim] = 0;
    put(query + args.nope_dim, args.rope_dim, out + at.dims.nope_pairs * 2);
  }
}

// Entries of the tile as 64 rows; those at or beyond `count` are zeros (their probability is exactly 0, but 0 * garbage
// might be NaN).
inline const uint16_t* tile_entries(const HeadSpan& at, PageId page, int32_t count, uint16_t* tail) {
  const LatentCache& cache = at.args.cache;
  const auto* entries = reinterpret_cast<const uint16_t*>(cache.base + value(page) * cache.page_stride);
  const int64_t width = at.dims.width();
  if (cache.dtype == DType::kI8) {
    const LatentCodes layout{at.args.kv_lora_rank, at.args.rope_dim};
    for (int64_t key = 0; key < count; ++key)
      widen_codes(layout, CodePage(cache, page, layout), key, tail + key * width);
  } else if (count == kTileKeys) {
    return entries;
  } else {
    std::copy(entries, entries + count * width, tail);
  }
  std::fill(tail + count * width, tail + kTileKeys * width, uint16_t{0});
  return tail;
}

// The rotary part of the keys is that of the transposed page: the last pairs of each of its panels.
inline void copy_rotary(const Dims& dims, const uint16_t* transposed, uint16_t* keys) {
  for (int64_t panel = 0; panel < kKeyPanels; ++panel)
    std::copy_n(transposed + (panel * dims.width_pairs() + dims.latent_pairs) * kPairElements,
                dims.rope_pairs * kPairElements, keys + (panel * dims.key_pairs() + dims.nope_pairs) * kPairElements);
}

// One row's scores of a tile [64] -> probabilities, in bf16 at `weights`; the factor that earlier tiles are scaled by.
inline float soften_row(const HeadSpan& at, const RowMemory& rows, int64_t row, int32_t tile_begin, float* scores,
                        uint16_t* weights) {
  const float alpha =
      soften(scores, at.num_open(row, tile_begin), at.args.scale, rows.row_max + row, rows.row_sum + row);
  for (int64_t i = 0; i < kTileKeys; i += kLanes) store_bf16(weights + i, load(scores + i));
  return alpha;
}

// Kernel: `rows`, its RowMemory; kRows at most that attend() takes at once; begin_head(at); expand(at, entries [64,
// width]); attend(at, tile_begin, first row, num_rows).
template <typename Kernel>
void attend_head(const HeadSpan& at, Kernel& kernel) {
  const RowMemory& rows = kernel.rows;
  const int64_t num_rows = at.num_rows(), v_stride = at.dims.v_stride;
  round_queries(at, rows.queries);
  kernel.begin_head(at);
  std::fill(rows.row_max, rows.row_max + num_rows, kClosed);
  std::fill(rows.row_sum, rows.row_sum + num_rows, 0.0f);
  std::fill(rows.out, rows.out + num_rows * v_stride, 0.0f);
  for (int32_t tile_begin = 0; tile_begin < at.span.position_end; tile_begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, at.span.position_end - tile_begin);
    kernel.expand(at, tile_entries(at, at.span.pages[tile_begin / kTileKeys], count, rows.tail));
    for (int64_t row = std::max(0, tile_begin - at.span.position_begin); row < num_rows; row += Kernel::kRows)
      kernel.attend(at, tile_begin, row, std::min<int64_t>(Kernel::kRows, num_rows - row));
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    const F32x16 total = broadcast(rows.row_sum[row]);
    float* out = at.args.out + ((at.span.row_begin + row) * at.args.heads + at.head) * at.args.v_dim;
    for (int64_t i = 0; i < at.args.v_dim; i += kLanes)
      store_first(out + i, load(rows.out + row * v_stride + i) / total, std::min<int64_t>(kLanes, at.args.v_dim - i));
  }
}

// One unit of work is a head of a sequence. Kernel(carver, dims, max_rows) takes a thread's memory.
template <typename Kernel>
void attend_all(const LatentAttentionArgs& args, OpContext& context) {
  const Dims dims(args);
  int64_t max_rows = 0;
  for (const SequenceSpan& span : args.sequences)
    max_rows = std::max<int64_t>(max_rows, span.position_end - span.position_begin);
  Carver one;
  { const Kernel measured(one, dims, max_rows); }
  std::byte* memory = context.scratch.reserve(one.bytes() * static_cast<size_t>(context.team.size()));
  const int64_t units = static_cast<int64_t>(args.sequences.size()) * args.heads;
  context.team.parallel_for(units, 1, [&](int64_t begin, int64_t end, int rank) {
    Carver carver(memory + static_cast<size_t>(rank) * one.bytes());
    Kernel kernel(carver, dims, max_rows);
    for (int64_t unit = begin; unit < end; ++unit)
      attend_head(
          {args, dims, args.sequences[static_cast<size_t>(unit / args.heads)], static_cast<int32_t>(unit % args.heads)},
          kernel);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA::expanded
