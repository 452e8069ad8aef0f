// Attention of generated tokens: K_h^T moves to the query's side and V_h behind the sum, so all heads of a row share
// each latent that is read. Lanes are heads for the scores and latent dims for the sums:
//
//   stage 1  q~ [width][heads]   = K_h^T q_nope, then q_rope, times scale       unit = head, all rows at once
//   stage 2  S [64 keys][heads]  = C q~;  P = exp(S - max);  L [heads][latent] += P^T C
//            unit = (row, partition of 256 or 512 positions), so that one long row feeds all threads
//   stage 3  merge the partitions, ascending;  o_h = V_h (L_h / sum)            unit = (row, head)
//
// Partitions and tiles start at absolute positions: the same sums whatever the batch or the number of threads.
#include "kernels/cpu/latent_attention_absorbed.h"

#include <algorithm>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/matmul.h"

namespace sluice::cpu::SLUICE_ISA {

namespace absorbed {

int64_t Plan::quantized_bytes() const {
  const auto bytes = [](const Weight& weight, int64_t count) {
    return is_quantized(weight.format) ? static_cast<int64_t>(quantized_rows_bytes(weight, count)) : 0;
  };
  return std::max(bytes(args.k_up_t[0], num_rows), bytes(args.v_up[0], 1));
}

void soften_tile(float* scores, int32_t count, int64_t head_panels, const Accumulators& into, float* alphas) {
  const int64_t heads = head_panels * kLanes;
  for (int64_t p = 0; p < head_panels; ++p) {
    float* column = scores + p * kLanes;
    const F32x16 before = load(into.peaks + p * kLanes);
    F32x16 peak = before;
    for (int32_t key = 0; key < count; ++key) peak = max(peak, load(column + key * heads));
    const F32x16 alpha = exp(before - peak);  // first tile: exp(-inf) = 0
    F32x16 sum = load(into.sums + p * kLanes) * alpha;
    for (int32_t key = 0; key < count; ++key) {
      const F32x16 probability = exp(load(column + key * heads) - peak);
      store(column + key * heads, probability);
      sum = sum + probability;
    }
    store(into.peaks + p * kLanes, peak);
    store(into.sums + p * kLanes, sum);
    store(alphas + p * kLanes, alpha);
  }
}

}  // namespace absorbed

namespace {

using namespace absorbed;

void count_rows(Plan& plan) {
  for (const SequenceSpan& span : plan.args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      plan.num_rows += 1;
      plan.num_partitions += plan.partitions_of(position);
    }
  }
}

void place(Plan& plan, Carver& carver, int threads) {
  plan.rows = carver.take<Row>(plan.num_rows);
  plan.queries = carver.take<std::byte>(plan.num_rows * plan.query_bytes());
  plan.peaks = carver.take<float>(plan.num_partitions * plan.padded_heads());
  plan.sums = carver.take<float>(plan.num_partitions * plan.padded_heads());
  plan.latents = carver.take<float>(plan.num_partitions * plan.latent_size());
  Carver tile;
  TileMemory(tile, plan);
  plan.tile_bytes = tile.bytes();
  plan.tiles = carver.take<std::byte>(threads * static_cast<int64_t>(plan.tile_bytes));
}

Plan make_plan(const LatentAttentionArgs& args, OpContext& context) {
  Plan plan{.args = args,
            .width = args.kv_lora_rank + args.rope_dim,
            .head_panels = (args.heads + kLanes - 1) / kLanes,
            .num_threads = context.team.size(),
            .codes = {args.kv_lora_rank, args.rope_dim}};
  count_rows(plan);
  Carver count;
  place(plan, count, context.team.size());
  Carver carver(context.scratch.reserve(count.bytes()));
  place(plan, carver, context.team.size());
  int64_t row = 0, partition = 0;
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      plan.rows[row++] = {&span, position, span.row_begin + position - span.position_begin, partition};
      partition += plan.partitions_of(position);
    }
  }
  return plan;
}

// Stage 1 over an int8 cache for one head and all rows, some at a time.
void absorb_head_int8(const Plan& plan, int32_t head, const TileMemory& memory) {
  const LatentAttentionArgs& args = plan.args;
  const int64_t q_dim = args.nope_dim + args.rope_dim;
  const Weight& weight = args.k_up_t[static_cast<size_t>(head)];
  const F32x16 scale = broadcast(args.scale);
  for (int64_t first = 0; first < plan.num_rows; first += kQueryRows) {
    const int64_t num_rows = std::min(kQueryRows, plan.num_rows - first);
    const auto query = [&](int64_t r) {
      return args.q + (plan.rows[first + r].batch_row * args.heads + head) * q_dim;
    };
    const auto values = [&](int64_t r) { return memory.values + r * plan.value_stride(); };
    multiply_weight(weight, num_rows, query, memory.rows, [&](int64_t r, int64_t panel, F32x16 value) {
      store(values(r) + panel * kLanes, value * scale);
    });
    for (int64_t r = 0; r < num_rows; ++r) {
      const float* rope = query(r) + args.nope_dim;
      for (int64_t i = 0; i < args.rope_dim; ++i) values(r)[args.kv_lora_rank + i] = rope[i] * args.scale;
      quantize_query(plan, values(r), plan.queries + (first + r) * plan.query_bytes() + head * plan.head_bytes());
    }
  }
}

// Stage 1 for one head and all rows.
void absorb_head(const Plan& plan, int32_t head, const TileMemory& memory) {
  if (plan.is_int8()) return absorb_head_int8(plan, head, memory);
  const LatentAttentionArgs& args = plan.args;
  const int64_t q_dim = args.nope_dim + args.rope_dim;
  const auto query = [&](int64_t r) { return args.q + (plan.rows[r].batch_row * args.heads + head) * q_dim; };
  // Elements [d, d + count) of the head's query, in the cache's type.
  const auto put = [&](int64_t r, int64_t d, F32x16 value, int64_t count) {
    std::byte* at = plan.queries + r * plan.query_bytes() + head * plan.head_bytes();
    if (plan.is_bf16()) {
      alignas(64) uint16_t lanes[kLanes];
      store_bf16(lanes, value);
      std::copy_n(lanes, count, reinterpret_cast<uint16_t*>(at) + d);
    } else {
      store_first(reinterpret_cast<float*>(at) + d, value, count);
    }
  };
  const Weight& weight = args.k_up_t[static_cast<size_t>(head)];
  const F32x16 scale = broadcast(args.scale);
  multiply_weight(weight, plan.num_rows, query, memory.rows,
                  [&](int64_t r, int64_t panel, F32x16 value) { put(r, panel * kLanes, value * scale, kLanes); });
  for (int64_t r = 0; r < plan.num_rows; ++r) {
    for (int64_t i = 0; i < args.rope_dim; i += kLanes) {
      const int64_t count = std::min<int64_t>(kLanes, args.rope_dim - i);
      put(r, args.kv_lora_rank + i, load_first(query(r) + args.nope_dim + i, count) * scale, count);
    }
  }
}

// Stage 2 for one (row, partition).
void attend_partition(const Plan& plan, const Row& row, int64_t index, const TileMemory& memory) {
  const int64_t partition = row.first_partition + index, heads = plan.padded_heads();
  const Accumulators into{plan.peaks + partition * heads, plan.sums + partition * heads,
                          plan.latents + partition * plan.latent_size()};
  std::fill_n(into.peaks, heads, kClosed);
  std::fill_n(into.sums, heads, 0.0f);
  std::fill_n(into.latents, plan.latent_size(), 0.0f);
  for (int64_t panel = 0; panel < plan.head_panels; ++panel) {
    const int64_t panel_bytes = kLanes * plan.head_bytes();
    transpose_rows(plan.queries + (&row - plan.rows) * plan.query_bytes() + panel * panel_bytes, plan.head_bytes() / 4,
                   memory.queries + panel * panel_bytes);
  }
  const auto end = static_cast<int32_t>(std::min<int64_t>(row.position + 1, (index + 1) * plan.partition_keys()));
  const auto first = static_cast<int32_t>(index * plan.partition_keys());
  const auto pages_from = [&](int32_t position) {
    const std::span<const PageId> pages(row.span->pages, static_cast<size_t>(row.position / kTileKeys + 1));
    return pages.subspan(static_cast<size_t>(position / kTileKeys));
  };
#if defined(__AMX_BF16__)
  if (plan.is_bf16()) return attend_partition_bf16(plan, pages_from(first), end - first, memory, into);
#endif
  if (plan.is_int8()) {
    for (int32_t begin = first; begin < end; begin += kBlockKeys)
      attend_block_int8(plan, pages_from(begin), std::min(kBlockKeys, end - begin), memory, into);
    return;
  }
  for (int32_t begin = first; begin < end; begin += kTileKeys) {
    const PageId* page = row.span->pages + begin / kTileKeys;
    const int32_t count = std::min(kTileKeys, end - begin);
    const PageId next = begin + kTileKeys < end ? page[1] : kNoPage;
    if (plan.is_bf16()) {
      attend_tile_bf16(plan, *page, next, count, memory, into);
    } else {
      attend_tile_f32(plan, *page, count, memory, into);
    }
  }
}

// Stage 3 for one row and head. The partitions' factors are made for the head's 16 lanes at once.
void merge(const Plan& plan, const Row& row, int64_t head, const TileMemory& memory) {
  const LatentAttentionArgs& args = plan.args;
  const int64_t heads = plan.padded_heads(), stride = plan.latent_stride(), panel = head / kLanes * kLanes;
  const int64_t num_partitions = plan.partitions_of(row.position);
  float* sums = plan.latents + row.first_partition * plan.latent_size() + head * stride;  // partition 0's, then all
  F32x16 peak = broadcast(kClosed);
  for (int64_t i = 0; i < num_partitions; ++i)
    peak = max(peak, load(plan.peaks + (row.first_partition + i) * heads + panel));
  F32x16 total = zero();
  alignas(64) float lanes[kLanes];
  for (int64_t i = 0; i < num_partitions; ++i) {
    const int64_t partition = row.first_partition + i;
    const F32x16 factor = exp(load(plan.peaks + partition * heads + panel) - peak);
    total = fma(load(plan.sums + partition * heads + panel), factor, total);
    store(lanes, factor);
    const float* from = plan.latents + partition * plan.latent_size() + head * stride;
    for (int64_t d = 0; d < stride; d += kLanes) {
      const F32x16 part = load(from + d) * broadcast(lanes[head % kLanes]);
      store(sums + d, i == 0 ? part : load(sums + d) + part);
    }
  }
  store(lanes, total);
  const F32x16 divisor = broadcast(lanes[head % kLanes]);
  if (plan.is_int8()) {
    ordered_latents(sums, args.kv_lora_rank, memory.values);
    sums = memory.values;
  }
  float* out = args.out + (row.batch_row * args.heads + head) * args.v_dim;
  multiply_weight(
      args.v_up[static_cast<size_t>(head)], 1, [&](int64_t) { return sums; }, memory.rows,
      [&](int64_t, int64_t p, F32x16 value) {
        const int64_t left = std::min<int64_t>(kLanes, args.v_dim - p * kLanes);
        store_first(out + p * kLanes, value / divisor, left);
      });
}

}  // namespace

void latent_attention_absorbed(const LatentAttentionArgs& args, OpContext& context) {
  SLUICE_CHECK(args.kv_lora_rank % kLanes == 0, "kv_lora_rank={} must be a multiple of {}", args.kv_lora_rank, kLanes);
  const Plan plan = make_plan(args, context);
  for (int64_t r = 0; r < plan.num_rows; ++r)  // heads that fill up the last panel
    std::fill_n(plan.queries + r * plan.query_bytes() + args.heads * plan.head_bytes(),
                (plan.padded_heads() - args.heads) * plan.head_bytes(), std::byte{0});
  const auto memory_of = [&](int rank) {
    Carver carver(plan.tiles + static_cast<size_t>(rank) * plan.tile_bytes);
    return TileMemory(carver, plan);
  };
  context.team.parallel_for(args.heads, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t head = begin; head < end; ++head) absorb_head(plan, static_cast<int32_t>(head), memory_of(rank));
  });
  context.team.parallel_for(plan.num_partitions, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t partition = begin; partition < end; ++partition) {
      const Row* row = std::upper_bound(plan.rows, plan.rows + plan.num_rows, partition,
                                        [](int64_t p, const Row& r) { return p < r.first_partition; }) -
                       1;
      attend_partition(plan, *row, partition - row->first_partition, memory_of(rank));
    }
  });
  context.team.parallel_for(plan.num_rows * args.heads, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t unit = begin; unit < end; ++unit)
      merge(plan, plan.rows[unit / args.heads], unit % args.heads, memory_of(rank));
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
