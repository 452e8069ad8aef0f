// Attention of prompt tokens over an f32 cache (bf16, int8: latent_attention_expanded_bf16.cc): per head, keys and values are
// expanded from the latents one tile of 64 positions (= one page) at a time, and a running softmax (arXiv:2205.14135)
// folds the tile into every query row of the chunk.
//
//   one unit of work = (sequence, head);   for tile in pages, ascending from position 0:
//      K [64, nope] = C K_h^T,  V [64, v] = C V_h^T       once for all rows of the chunk
//      S [rows, 64] = q K^T * scale, future keys closed   P = exp(S - max)
//      O = O * alpha + P V                                rows that lie before the tile are skipped
//
// Tiles start at absolute positions and rows are independent, so a row's bits do not depend on the chunk it came in.
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/running_softmax.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

int64_t round_up(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// One thread's memory, in floats; laid out in this order.
struct Workspace {
  float* tail;     // [64, width] entries of a page that is not full, zeros behind them
  float* keys;     // [4 panels][nope + rope][16 keys]
  float* values;   // [v panels][64 keys][16]
  float* scores;   // [kTileRows, 64]
  float* row_max;  // [rows]
  float* row_sum;  // [rows]
  float* out;      // [rows, round_up(v)]

  static int64_t size(const LatentAttentionArgs& args, int64_t max_rows) {
    const int64_t width = args.kv_lora_rank + args.rope_dim;
    return kTileKeys * width + kTileKeys * (args.nope_dim + args.rope_dim) + kTileKeys * round_up(args.v_dim) +
           kTileRows * kTileKeys + 2 * round_up(max_rows) + max_rows * round_up(args.v_dim);
  }

  Workspace(float* memory, const LatentAttentionArgs& args, int64_t max_rows) {
    const int64_t width = args.kv_lora_rank + args.rope_dim;
    const auto take = [&](int64_t count) { return std::exchange(memory, memory + count); };
    tail = take(kTileKeys * width);
    keys = take(kTileKeys * (args.nope_dim + args.rope_dim));
    values = take(kTileKeys * round_up(args.v_dim));
    scores = take(kTileRows * kTileKeys);
    row_max = take(round_up(max_rows));
    row_sum = take(round_up(max_rows));
    out = take(max_rows * round_up(args.v_dim));
  }
};

// Entries of the tile as 64 rows; those at or beyond `count` are zeros (their probability is exactly 0, but 0 * garbage
// might be NaN).
const float* tile_entries(const LatentAttentionArgs& args, PageId page, int32_t count, const Workspace& work) {
  const int64_t width = args.kv_lora_rank + args.rope_dim;
  const float* entries = page_entries(args.cache, page);
  if (count == kTileKeys) return entries;
  std::copy(entries, entries + count * width, work.tail);
  std::fill(work.tail + count * width, work.tail + kTileKeys * width, 0.0f);
  return work.tail;
}

void expand_keys(const LatentAttentionArgs& args, const Weight& k_up, const float* entries, const Workspace& work) {
  const int64_t width = args.kv_lora_rank + args.rope_dim;
  const int64_t dim = args.nope_dim + args.rope_dim;
  const auto put = [&](int64_t key, int64_t d, float value) {
    work.keys[key / kLanes * dim * kLanes + d * kLanes + key % kLanes] = value;
  };
  with_panels(k_up, 0, [&](auto weights) {
    multiply_block(
        kTileKeys, [&](int64_t key) { return entries + key * width; }, args.kv_lora_rank, weights, num_panels(k_up),
        [&](int64_t key, int64_t panel, F32x16 value) {
          alignas(64) float lanes[kLanes];
          store(lanes, value);
          const int64_t d0 = panel * kLanes;
          for (int64_t i = 0; i < std::min<int64_t>(kLanes, args.nope_dim - d0); ++i) put(key, d0 + i, lanes[i]);
        });
  });
  for (int64_t key = 0; key < kTileKeys; ++key)
    for (int64_t i = 0; i < args.rope_dim; ++i)
      put(key, args.nope_dim + i, entries[key * width + args.kv_lora_rank + i]);
}

void expand_values(const LatentAttentionArgs& args, const Weight& v_up, const float* entries, const Workspace& work) {
  const int64_t width = args.kv_lora_rank + args.rope_dim;
  with_panels(v_up, 0, [&](auto weights) {
    multiply_block(
        kTileKeys, [&](int64_t key) { return entries + key * width; }, args.kv_lora_rank, weights, num_panels(v_up),
        [&](int64_t key, int64_t panel, F32x16 value) {
          store(work.values + (panel * kTileKeys + key) * kLanes, value);
        });
  });
}

struct HeadTile {
  const SequenceSpan& span;
  int32_t head;
  int32_t tile_begin;  // absolute position
};

// Folds the tile into rows [row0, row0 + num_rows) of the span.
void attend_rows(const LatentAttentionArgs& args, const HeadTile& tile, int64_t row0, int64_t num_rows,
                 const Workspace& work) {
  const int64_t dim = args.nope_dim + args.rope_dim;
  const int64_t out_stride = round_up(args.v_dim);
  const auto query = [&](int64_t r) {
    return args.q + ((tile.span.row_begin + row0 + r) * args.heads + tile.head) * dim;
  };
  multiply_block(num_rows, query, dim, TileWeights<float>{work.keys, dim * kLanes, kLanes}, kKeyPanels,
                 [&](int64_t r, int64_t p, F32x16 value) { store(work.scores + r * kTileKeys + p * kLanes, value); });
  float alpha[kTileRows];
  for (int64_t r = 0; r < num_rows; ++r) {
    const int32_t position = tile.span.position_begin + static_cast<int32_t>(row0 + r);
    const int32_t num_open = position + 1 - tile.tile_begin;
    alpha[r] =
        soften(work.scores + r * kTileKeys, num_open, args.scale, work.row_max + row0 + r, work.row_sum + row0 + r);
  }
  multiply_block(
      num_rows, [&](int64_t r) { return work.scores + r * kTileKeys; }, kTileKeys,
      TileWeights<float>{work.values, kTileKeys * kLanes, kLanes}, out_stride / kLanes,
      [&](int64_t r, int64_t p, F32x16 value) {
        float* out = work.out + (row0 + r) * out_stride + p * kLanes;
        store(out, fma(load(out), broadcast(alpha[r]), value));
      });
}

void attend_head(const LatentAttentionArgs& args, const SequenceSpan& span, int32_t head, const Workspace& work) {
  const int64_t num_rows = span.position_end - span.position_begin;
  const int64_t out_stride = round_up(args.v_dim);
  std::fill(work.row_max, work.row_max + num_rows, kClosed);
  std::fill(work.row_sum, work.row_sum + num_rows, 0.0f);
  std::fill(work.out, work.out + num_rows * out_stride, 0.0f);
  for (int32_t tile_begin = 0; tile_begin < span.position_end; tile_begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, span.position_end - tile_begin);
    const float* entries = tile_entries(args, span.pages[tile_begin / kTileKeys], count, work);
    expand_keys(args, args.k_up[static_cast<size_t>(head)], entries, work);
    expand_values(args, args.v_up[static_cast<size_t>(head)], entries, work);
    for (int64_t row = std::max(0, tile_begin - span.position_begin); row < num_rows; row += kTileRows)
      attend_rows(args, {span, head, tile_begin}, row, std::min<int64_t>(kTileRows, num_rows - row), work);
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    const F32x16 total = broadcast(work.row_sum[row]);
    float* out = args.out + ((span.row_begin + row) * args.heads + head) * args.v_dim;
    for (int64_t i = 0; i < args.v_dim; i += kLanes)
      store_first(out + i, load(work.out + row * out_stride + i) / total, std::min<int64_t>(kLanes, args.v_dim - i));
  }
}

}  // namespace

void latent_attention_expanded(const LatentAttentionArgs& args, OpContext& context) {
  if (args.cache.dtype != DType::kF32) return latent_attention_expanded_bf16(args, context);
  int64_t max_rows = 0;
  for (const SequenceSpan& span : args.sequences)
    max_rows = std::max<int64_t>(max_rows, span.position_end - span.position_begin);
  const int64_t size = round_up(Workspace::size(args, max_rows));
  auto* memory = reinterpret_cast<float*>(
      context.scratch.reserve(static_cast<size_t>(size * context.team.size()) * sizeof(float)));
  const int64_t units = static_cast<int64_t>(args.sequences.size()) * args.heads;
  context.team.parallel_for(units, 1, [&](int64_t begin, int64_t end, int rank) {
    const Workspace work(memory + rank * size, args, max_rows);
    for (int64_t unit = begin; unit < end; ++unit)
      attend_head(args, args.sequences[static_cast<size_t>(unit / args.heads)], static_cast<int32_t>(unit % args.heads),
                  work);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
