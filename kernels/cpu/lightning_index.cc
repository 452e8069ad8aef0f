// The lightning indexer (DeepSeek-V3.2; its choice also V4's): its keys and its choice. Lanes are heads, as in absorbed
// attention, so that a key is read once for all of them:
//
//   stage 1  q [dim][heads] of each row                                                             unit = row
//   stage 2  D [64 keys][heads] = K q;  score = sum over heads of w max(0, D)      unit = (row, partition of 512 keys)
//   stage 3  the top_k-th largest score is the bar; positions above it, and the lowest ones on it   unit = row
//
// A score depends on its row and key alone, and the choice on the scores alone: the same positions whatever the batch,
// the chunk, the threads or the instruction set.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kMaxDim = 1024;  // of an index key; 128 in every released model
constexpr int32_t kTileKeys = kPageTokens;  // at most; a tile is what a page holds
// 8 tiles: at 64 heads x 128 about 4 M multiply-adds, some 100 us of one core; a context of 4k gives 8 units to share.
constexpr int32_t kPartitionKeys = 8 * kTileKeys;

int64_t round_up(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// y = weight * (z - mean) / sqrt(var + eps) + bias
void layer_norm_row(const float* z, const IndexWriteArgs& args, float* y) {
  const int64_t dim = args.head_dim;
  const auto lanes_at = [&](int64_t i) { return std::min<int64_t>(kLanes, dim - i); };
  F32x16 sum = zero();
  for (int64_t i = 0; i < dim; i += kLanes) sum = sum + load_first(z + i, lanes_at(i));
  const F32x16 mean = broadcast(reduce_add(sum) / static_cast<float>(dim));
  for (int64_t i = 0; i < dim; i += kLanes) store_first(y + i, load_first(z + i, lanes_at(i)) - mean, lanes_at(i));
  F32x16 squares = zero();
  for (int64_t i = 0; i < dim; i += kLanes) {
    const F32x16 centred = load_first(y + i, lanes_at(i));
    squares = fma(centred, centred, squares);
  }
  const F32x16 factor = broadcast(1.0f / std::sqrt(reduce_add(squares) / static_cast<float>(dim) + args.eps));
  for (int64_t i = 0; i < dim; i += kLanes) {
    const int64_t lanes = lanes_at(i);
    const F32x16 scaled = load_first(y + i, lanes) * factor;
    store_first(y + i, fma(scaled, load_first(args.norm_weight + i, lanes), load_first(args.norm_bias + i, lanes)),
                lanes);
  }
}

void write_key(const IndexWriteArgs& args, const SequenceSpan& span, int32_t position) {
  const int64_t row = span.row_begin + position - span.position_begin;
  alignas(64) float key[kMaxDim];
  layer_norm_row(args.z + row * args.head_dim, args, key);
  rotate(key, args.cos_sin + row * args.rope_dim, args.rope_dim, args.layout);
  std::byte* target = entry_address(args.cache, span.pages, position, args.head_dim);
  if (args.cache.dtype == DType::kF32) {
    std::memcpy(target, key, static_cast<size_t>(args.head_dim) * sizeof(float));
  } else {
    auto* out = reinterpret_cast<uint16_t*>(target);
    for (int32_t i = 0; i < args.head_dim; ++i) out[i] = f32_to_bf16(key[i]);
  }
}

// The first `count` keys of a page as f32 rows: the page itself where it is f32, else widened into `buffer`.
const float* page_keys(const IndexSelectArgs& args, PageId page, int32_t count, float* buffer) {
  if (args.cache.dtype == DType::kF32) return page_entries(args.cache, page);
  const auto* source = reinterpret_cast<const uint16_t*>(args.cache.base + value(page) * args.cache.page_stride);
  const int64_t total = int64_t{count} * args.head_dim;
  int64_t i = 0;
  for (; i + kLanes <= total; i += kLanes) store(buffer + i, load_bf16(source + i));
  for (; i < total; ++i) buffer[i] = bf16_to_f32(source[i]);
  return buffer;
}

struct Row {
  const SequenceSpan* span;
  int32_t position;
  int64_t batch_row;
  int64_t first_partition;  // index among the partitions of all rows
  int64_t first_score;      // index among the scores of all rows
};

struct Plan {
  const IndexSelectArgs& args;
  int64_t padded_heads;
  int64_t num_rows = 0, num_partitions = 0, num_scores = 0, max_scores = 0;
  Row* rows = nullptr;          // [num_rows]
  float* queries = nullptr;     // [num_rows][head panels][head_dim][16]
  float* weights = nullptr;     // [num_rows][padded_heads]
  float* scores = nullptr;      // [num_scores]
  float* workspaces = nullptr;  // [threads][workspace_size]

  int64_t query_size() const { return padded_heads * args.head_dim; }
  int32_t num_candidates(int32_t position) const { return (position + 1) / args.ratio; }
  int64_t num_partitions_of(int32_t position) const {
    return (num_candidates(position) + kPartitionKeys - 1) / kPartitionKeys;
  }
  // Stage 2: a widened page, then products [keys][heads]. Stage 3: the scores' ordering keys.
  int64_t workspace_size() const { return round_up(std::max(kTileKeys * (args.head_dim + padded_heads), max_scores)); }
};

Plan make_plan(const IndexSelectArgs& args, OpContext& context) {
  Plan plan{.args = args, .padded_heads = round_up(args.heads)};
  const auto for_each_row = [&](auto&& body) {
    for (const SequenceSpan& span : args.sequences)
      for (int32_t position = span.position_begin; position < span.position_end; ++position) body(span, position);
  };
  for_each_row([&](const SequenceSpan&, int32_t position) {
    const int32_t candidates = plan.num_candidates(position);
    SLUICE_CHECK(candidates >= args.top_k, "position {} has fewer than {} candidates", position, args.top_k);
    plan.num_rows += 1;
    plan.num_partitions += plan.num_partitions_of(position);
    plan.num_scores += candidates;
    plan.max_scores = std::max<int64_t>(plan.max_scores, candidates);
  });
  const auto padded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t row_bytes = padded(plan.num_rows * static_cast<int64_t>(sizeof(Row)));
  const int64_t counts[] = {plan.num_rows * plan.query_size(), plan.num_rows * plan.padded_heads, plan.num_scores,
                            context.team.size() * plan.workspace_size()};
  int64_t total = row_bytes;
  for (int64_t count : counts) total += padded(count * 4);
  std::byte* memory = context.scratch.reserve(static_cast<size_t>(total));
  plan.rows = reinterpret_cast<Row*>(std::exchange(memory, memory + row_bytes));
  float** const targets[] = {&plan.queries, &plan.weights, &plan.scores, &plan.workspaces};
  for (size_t i = 0; i < std::size(targets); ++i)
    *targets[i] = reinterpret_cast<float*>(std::exchange(memory, memory + padded(counts[i] * 4)));
  int64_t row = 0, partition = 0, score = 0;
  for_each_row([&](const SequenceSpan& span, int32_t position) {
    plan.rows[row++] = {&span, position, span.row_begin + position - span.position_begin, partition, score};
    partition += plan.num_partitions_of(position);
    score += plan.num_candidates(position);
  });
  return plan;
}

// Stage 1. Heads beyond the last are zeros, with weight zero.
void pack_query(const Plan& plan, int64_t row) {
  const IndexSelectArgs& args = plan.args;
  const float* q = args.q + plan.rows[row].batch_row * args.heads * args.head_dim;
  const float* weights = args.weights + plan.rows[row].batch_row * args.heads;
  float* out = plan.queries + row * plan.query_size();
  for (int64_t head = 0; head < plan.padded_heads; ++head) {
    float* column = out + head / kLanes * args.head_dim * kLanes + head % kLanes;
    for (int64_t d = 0; d < args.head_dim; ++d)
      column[d * kLanes] = head < args.heads ? q[head * args.head_dim + d] : 0;
    plan.weights[row * plan.padded_heads + head] = head < args.heads ? weights[head] : 0;
  }
}

// Stage 2 for one (row, partition).
void score_partition(const Plan& plan, int64_t row_index, int64_t partition, float* workspace) {
  const IndexSelectArgs& args = plan.args;
  const Row& row = plan.rows[row_index];
  const float* queries = plan.queries + row_index * plan.query_size();
  const float* weights = plan.weights + row_index * plan.padded_heads;
  float* products = workspace + kTileKeys * args.head_dim;
  const int32_t tile_keys = kPageTokens / args.ratio;
  const auto end =
      static_cast<int32_t>(std::min<int64_t>(plan.num_candidates(row.position), (partition + 1) * kPartitionKeys));
  for (auto begin = static_cast<int32_t>(partition * kPartitionKeys); begin < end; begin += tile_keys) {
    const int32_t count = std::min(tile_keys, end - begin);
    const float* keys = page_keys(args, row.span->pages[begin / tile_keys], count, workspace);
    multiply_block(
        count, [&](int64_t key) { return keys + key * args.head_dim; }, args.head_dim,
        TileWeights<float>{queries, int64_t{args.head_dim} * kLanes, kLanes}, plan.padded_heads / kLanes,
        [&](int64_t key, int64_t p, F32x16 value) { store(products + key * plan.padded_heads + p * kLanes, value); });
    for (int32_t key = 0; key < count; ++key) {
      F32x16 sum = zero();
      for (int64_t head = 0; head < plan.padded_heads; head += kLanes)
        sum = fma(load(weights + head), max(zero(), load(products + key * plan.padded_heads + head)), sum);
      plan.scores[row.first_score + begin + key] = reduce_add(sum);
    }
  }
}

// An integer that orders as the score does; both zeros are one.
uint32_t order_of(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Stage 3.
void select_row(const Plan& plan, int64_t row_index, float* workspace) {
  const Row& row = plan.rows[row_index];
  const float* scores = plan.scores + row.first_score;
  const int32_t count = plan.num_candidates(row.position), top_k = plan.args.top_k;
  auto* order = reinterpret_cast<uint32_t*>(workspace);
  for (int32_t s = 0; s < count; ++s) order[s] = order_of(scores[s]);
  std::nth_element(order, order + top_k - 1, order + count, std::greater<>());
  const uint32_t bar = order[top_k - 1];
  auto num_on_bar =
      top_k - static_cast<int32_t>(std::count_if(order, order + top_k, [&](uint32_t o) { return o > bar; }));
  int32_t* out = plan.args.positions + row_index * top_k;
  for (int32_t s = 0; s < count; ++s) {
    const uint32_t o = order_of(scores[s]);
    if (o > bar || (o == bar && num_on_bar-- > 0)) *out++ = s;
  }
}

}  // namespace

void index_write(const IndexWriteArgs& args, OpContext& context) {
  SLUICE_CHECK(args.head_dim <= kMaxDim && args.rope_dim <= args.head_dim, "head_dim={} rope_dim={}", args.head_dim,
               args.rope_dim);
  SLUICE_CHECK(args.cache.dtype == DType::kF32 || args.cache.dtype == DType::kBF16, "cache dtype {}",
               name(args.cache.dtype));
  for (const SequenceSpan& span : args.sequences) {
    context.team.parallel_for(span.position_end - span.position_begin, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) write_key(args, span, span.position_begin + static_cast<int32_t>(i));
    });
  }
}

void index_select(const IndexSelectArgs& args, OpContext& context) {
  SLUICE_CHECK(args.ratio >= 1 && kPageTokens % args.ratio == 0, "ratio={}", args.ratio);
  const Plan plan = make_plan(args, context);
  const auto workspace = [&](int rank) { return plan.workspaces + rank * plan.workspace_size(); };
  context.team.parallel_for(plan.num_rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) pack_query(plan, row);
  });
  context.team.parallel_for(plan.num_partitions, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const Row* row = std::upper_bound(plan.rows, plan.rows + plan.num_rows, unit,
                                        [](int64_t u, const Row& r) { return u < r.first_partition; }) -
                       1;
      score_partition(plan, row - plan.rows, unit - row->first_partition, workspace(rank));
    }
  });
  context.team.parallel_for(plan.num_rows, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t row = begin; row < end; ++row) select_row(plan, row, workspace(rank));
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
