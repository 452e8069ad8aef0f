// Grouped-query attention of prompt tokens: one head at a time, a tile of 64 positions (= one page) for all rows of the
// chunk, folded in by a running softmax (arXiv:2205.14135).
//
//   one unit of work = (sequence, head);   for tile in pages, ascending from position 0:
//      K^T [4 panels][dim][16 keys],  V [64][dim]            once for all rows of the chunk
//      S [rows, 64] = q K^T * scale, future keys closed      P = exp(S - max)
//      O = O * alpha + P V                                   rows that lie before the tile are skipped
//
// Tiles start at absolute positions and rows are independent, so a row's bits do not depend on the chunk it came in.
// The heads of a group turn the same keys each for themselves: 8k values moved for 1 Mflop at 64 rows, 1 % of the time,
// and units enough for every thread.
#include <algorithm>

#include "sluice/check.h"

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/key_value_cache.h"
#include "kernels/cpu/running_softmax.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

// One thread's memory.
struct Workspace {
  float* rows;     // [64, dim] a tile's keys, and then its values
  float* keys;     // [4 panels][dim][16]
  float* scores;   // [kTileRows, 64]
  float* row_max;  // [rows]
  float* row_sum;  // [rows]
  float* out;      // [rows, dim]

  Workspace(Carver& carver, const GroupedAttentionArgs& args, int64_t max_rows)
      : rows(carver.take<float>(int64_t{kTileKeys} * args.head_dim)),
        keys(carver.take<float>(int64_t{kTileKeys} * args.head_dim)),
        scores(carver.take<float>(kTileRows * kTileKeys)),
        row_max(carver.take<float>(max_rows)),
        row_sum(carver.take<float>(max_rows)),
        out(carver.take<float>(max_rows * args.head_dim)) {}
};

struct HeadTile {
  const SequenceSpan& span;
  int64_t head;
  int32_t begin;  // absolute position
  int32_t count;  // positions of the sequence in it
};

// Rows [64, dim] of the tile; those behind `count` are zeros (their probability is exactly 0, but 0 * garbage might be
// NaN).
HeadRowsOfPage tile_rows(const LatentCache& cache, const GroupedAttentionArgs& args, const HeadTile& tile,
                         bool contiguous, float* memory) {
  const int64_t dim = args.head_dim, group = tile.head / (args.heads / args.kv_heads);
  const PageId page = tile.span.pages[tile.begin / kTileKeys];
  HeadRowsOfPage rows = head_rows(cache, page, tile.count, args, group, memory);
  if (rows.data != memory && (contiguous || tile.count < kTileKeys)) {
    for (int64_t i = 0; i < tile.count; ++i) std::copy_n(rows.data + i * rows.stride, dim, memory + i * dim);
    rows = {memory, dim};
  }
  if (tile.count < kTileKeys) std::fill(memory + tile.count * dim, memory + kTileKeys * dim, 0.0f);
  return rows;
}

// Folds the tile into rows [row0, row0 + num_rows) of the span.
void attend_rows(const GroupedAttentionArgs& args, const HeadTile& tile, const HeadRowsOfPage& values, int64_t row0,
                 int64_t num_rows, const Workspace& work) {
  const int64_t dim = args.head_dim;
  multiply_block(
      num_rows, [&](int64_t r) { return args.q + ((tile.span.row_begin + row0 + r) * args.heads + tile.head) * dim; },
      dim, TileWeights<float>{work.keys, dim * kLanes, kLanes}, kKeyPanels,
      [&](int64_t r, int64_t p, F32x16 value) { store(work.scores + r * kTileKeys + p * kLanes, value); });
  float alpha[kTileRows];
  for (int64_t r = 0; r < num_rows; ++r) {
    const int32_t position = tile.span.position_begin + static_cast<int32_t>(row0 + r);
    alpha[r] = soften(work.scores + r * kTileKeys, position + 1 - tile.begin, args.scale, work.row_max + row0 + r,
                      work.row_sum + row0 + r);
  }
  multiply_block(
      num_rows, [&](int64_t r) { return work.scores + r * kTileKeys; }, kTileKeys,
      TileWeights<float>{values.data, kLanes, values.stride}, dim / kLanes,
      [&](int64_t r, int64_t p, F32x16 value) {
        float* out = work.out + (row0 + r) * dim + p * kLanes;
        store(out, fma(load(out), broadcast(alpha[r]), value));
      });
}

void attend_head(const GroupedAttentionArgs& args, const SequenceSpan& span, int64_t head, const Workspace& work) {
  const int64_t num_rows = span.position_end - span.position_begin, dim = args.head_dim;
  std::fill(work.row_max, work.row_max + num_rows, kClosed);
  std::fill(work.row_sum, work.row_sum + num_rows, 0.0f);
  std::fill(work.out, work.out + num_rows * dim, 0.0f);
  for (int32_t begin = 0; begin < span.position_end; begin += kTileKeys) {
    const HeadTile tile{span, head, begin, std::min(kTileKeys, span.position_end - begin)};
    const HeadRowsOfPage keys = tile_rows(args.keys, args, tile, true, work.rows);
    for (int64_t panel = 0; panel < kKeyPanels; ++panel)
      transpose_rows(keys.data + panel * kLanes * dim, dim, work.keys + panel * kLanes * dim);
    const HeadRowsOfPage values = tile_rows(args.values, args, tile, false, work.rows);
    for (int64_t row = std::max(0, begin - span.position_begin); row < num_rows; row += kTileRows)
      attend_rows(args, tile, values, row, std::min<int64_t>(kTileRows, num_rows - row), work);
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    const F32x16 total = broadcast(work.row_sum[row]);
    float* out = args.out + ((span.row_begin + row) * args.heads + head) * dim;
    for (int64_t d = 0; d < dim; d += kLanes) store(out + d, load(work.out + row * dim + d) / total);
  }
}

}  // namespace

void grouped_attention_prompt(const GroupedAttentionArgs& args, OpContext& context) {
  SLUICE_CHECK(args.head_dim % kLanes == 0, "head_dim={} must be a multiple of {}", args.head_dim, kLanes);
  SLUICE_CHECK(args.heads % args.kv_heads == 0, "heads={} kv_heads={}", args.heads, args.kv_heads);
  int64_t max_rows = 0;
  for (const SequenceSpan& span : args.sequences)
    max_rows = std::max<int64_t>(max_rows, span.position_end - span.position_begin);
  Carver count;
  Workspace(count, args, max_rows);
  std::byte* memory = context.scratch.reserve(count.bytes() * static_cast<size_t>(context.team.size()));
  const int64_t units = static_cast<int64_t>(args.sequences.size()) * args.heads;
  context.team.parallel_for(units, 1, [&](int64_t begin, int64_t end, int rank) {
    Carver carver(memory + count.bytes() * static_cast<size_t>(rank));
    const Workspace work(carver, args, max_rows);
    for (int64_t unit = begin; unit < end; ++unit)
      attend_head(args, args.sequences[static_cast<size_t>(unit / args.heads)], unit % args.heads, work);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
