// Grouped-query attention of generated tokens. All heads of a group share each key and value that is read: lanes are
// the group's heads for the scores and dims for the sums, as in absorbed latent attention.
//
//   stage 1  q [panels][dim][16 heads] = queries * scale                              unit = row
//   stage 2  S [64 keys][16] = K q;  P = exp(S - max);  O [16][dim] = O * alpha + P^T V
//            unit = (row, partition of 256 positions, panel of 16 heads of one group)
//   stage 3  merge the partitions, ascending;  out = O / sum                          unit = (row, panel)
//
// Partitions and tiles start at absolute positions: the same sums whatever the batch or the number of threads. A group
// of 8 heads (Qwen3-30B-A3B) leaves half of the lanes of S idle; a bf16 cache is widened tile by tile into L1, an
// eighth of the loads of the products that read it there.
#include <algorithm>

#include "sluice/check.h"

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/heads_softmax.h"
#include "kernels/cpu/key_value_cache.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kTileKeys = kPageTokens;
// 4 tiles, as in absorbed attention: the smallest unit, 16 heads of 128 dims, is 2 Mflop, some 20 us of one core.
constexpr int32_t kPartitionKeys = 4 * kTileKeys;

struct Row {
  const SequenceSpan* span;
  int32_t position;
  int64_t batch_row;
  int64_t first_partition;  // index among the partitions of all rows
};

int64_t partitions_of(int32_t position) { return position / kPartitionKeys + 1; }

struct Workspace {
  float* keys = nullptr;        // [64][dim] of a bf16 cache
  float* values = nullptr;      // [64][dim]
  float* scores = nullptr;      // [64][16]
  float* transposed = nullptr;  // [16][64]
};

struct Plan {
  const GroupedAttentionArgs& args;
  int64_t heads_each;   // of a group
  int64_t panels_each;  // ceil(heads_each / 16)
  int64_t num_rows = 0;
  int64_t num_partitions = 0;

  Row* rows = nullptr;              // [num_rows]
  float* queries = nullptr;         // [num_rows][panels][dim][16]
  float* peaks = nullptr;           // [num_partitions][panels][16]
  float* sums = nullptr;            // [num_partitions][panels][16]
  float* mixed = nullptr;           // [num_partitions][heads][dim]
  Workspace* workspaces = nullptr;  // [threads]

  int64_t panels() const { return args.kv_heads * panels_each; }
  int64_t query_size() const { return panels() * args.head_dim * kLanes; }
  int64_t mixed_size() const { return int64_t{args.heads} * args.head_dim; }
};

// Heads [begin, begin + count) of group `group` are the lanes of a panel.
struct Panel {
  int64_t group, begin, count;

  Panel(const Plan& plan, int64_t panel)
      : group(panel / plan.panels_each),
        begin(group * plan.heads_each + panel % plan.panels_each * kLanes),
        count(std::min<int64_t>(kLanes, (group + 1) * plan.heads_each - begin)) {}
};

Plan make_plan(const GroupedAttentionArgs& args, OpContext& context) {
  Plan plan{.args = args, .heads_each = args.heads / args.kv_heads, .panels_each = 0};
  plan.panels_each = (plan.heads_each + kLanes - 1) / kLanes;
  const auto for_each_row = [&](auto&& body) {
    for (const SequenceSpan& span : args.sequences)
      for (int32_t t = span.position_begin; t < span.position_end; ++t) body(span, t);
  };
  for_each_row([&](const SequenceSpan&, int32_t t) {
    plan.num_rows += 1;
    plan.num_partitions += partitions_of(t);
  });
  const int num_threads = context.team.size();
  const auto carve = [&](Carver carver, bool real) {
    plan.rows = carver.take<Row>(plan.num_rows);
    plan.queries = carver.take<float>(plan.num_rows * plan.query_size());
    plan.peaks = carver.take<float>(plan.num_partitions * plan.panels() * kLanes);
    plan.sums = carver.take<float>(plan.num_partitions * plan.panels() * kLanes);
    plan.mixed = carver.take<float>(plan.num_partitions * plan.mixed_size());
    plan.workspaces = carver.take<Workspace>(num_threads);
    for (int rank = 0; rank < num_threads; ++rank) {
      const Workspace workspace{carver.take<float>(int64_t{kTileKeys} * args.head_dim),
                                carver.take<float>(int64_t{kTileKeys} * args.head_dim),
                                carver.take<float>(kTileKeys * kLanes), carver.take<float>(kTileKeys * kLanes)};
      if (real) plan.workspaces[rank] = workspace;
    }
    return carver.bytes();
  };
  carve(Carver(context.scratch.reserve(carve(Carver(), false))), true);
  Row* row = plan.rows;
  int64_t partition = 0;
  for_each_row([&](const SequenceSpan& span, int32_t t) {
    *row++ = {&span, t, span.row_begin + t - span.position_begin, partition};
    partition += partitions_of(t);
  });
  return plan;
}

// Stage 1. Lanes without a head are zeros; nobody reads what becomes of them.
void pack_query(const Plan& plan, int64_t index) {
  const GroupedAttentionArgs& args = plan.args;
  float* out = plan.queries + index * plan.query_size();
  if (plan.heads_each % kLanes != 0) std::fill_n(out, plan.query_size(), 0.0f);
  for (int64_t p = 0; p < plan.panels(); ++p, out += args.head_dim * kLanes) {
    const Panel panel(plan, p);
    for (int64_t lane = 0; lane < panel.count; ++lane) {
      const float* q = args.q + (plan.rows[index].batch_row * args.heads + panel.begin + lane) * args.head_dim;
      for (int64_t d = 0; d < args.head_dim; ++d) out[d * kLanes + lane] = q[d] * args.scale;
    }
  }
}

// Stage 2 for one (row, partition, panel).
void attend_partition(const Plan& plan, const Row& row, int64_t index, int64_t panel_index, const Workspace& work) {
  const GroupedAttentionArgs& args = plan.args;
  const int64_t dim = args.head_dim, partition = row.first_partition + index;
  const Panel panel(plan, panel_index);
  const float* queries = plan.queries + (&row - plan.rows) * plan.query_size() + panel_index * dim * kLanes;
  float* mixed = plan.mixed + partition * plan.mixed_size() + panel.begin * dim;  // [panel.count, dim]
  std::fill_n(mixed, panel.count * dim, 0.0f);
  HeadsSoftmax softmax;
  alignas(64) float factors[kLanes];
  const auto end = static_cast<int32_t>(std::min<int64_t>(row.position + 1, (index + 1) * kPartitionKeys));
  for (auto begin = static_cast<int32_t>(index * kPartitionKeys); begin < end; begin += kTileKeys) {
    const PageId page = row.span->pages[begin / kTileKeys];
    const int32_t count = std::min(kTileKeys, end - begin);
    const HeadRowsOfPage keys = head_rows(args.keys, page, count, args, panel.group, work.keys);
    multiply_block(
        count, [&](int64_t key) { return keys.data + key * keys.stride; }, dim,
        TileWeights<float>{queries, dim * kLanes, kLanes}, 1,
        [&](int64_t key, int64_t, F32x16 value) { store(work.scores + key * kLanes, value); });
    store(factors, softmax.fold(work.scores, count));
    for (int64_t lane = 0; lane < panel.count; ++lane)
      for (int32_t key = 0; key < count; ++key)
        work.transposed[lane * kTileKeys + key] = work.scores[key * kLanes + lane];
    const HeadRowsOfPage values = head_rows(args.values, page, count, args, panel.group, work.values);
    multiply_block(
        panel.count, [&](int64_t lane) { return work.transposed + lane * kTileKeys; }, count,
        TileWeights<float>{values.data, kLanes, values.stride}, dim / kLanes,
        [&](int64_t lane, int64_t p, F32x16 value) {
          float* target = mixed + lane * dim + p * kLanes;
          store(target, fma(load(target), broadcast(factors[lane]), value));
        });
  }
  const int64_t at = (partition * plan.panels() + panel_index) * kLanes;
  store(plan.peaks + at, softmax.peak);
  store(plan.sums + at, softmax.sum);
}

// Stage 3 for one (row, panel).
void merge(const Plan& plan, const Row& row, int64_t panel_index) {
  const GroupedAttentionArgs& args = plan.args;
  const int64_t dim = args.head_dim, num_partitions = partitions_of(row.position);
  const Panel panel(plan, panel_index);
  const auto at = [&](int64_t i) { return ((row.first_partition + i) * plan.panels() + panel_index) * kLanes; };
  F32x16 peak = load(plan.peaks + at(0));
  for (int64_t i = 1; i < num_partitions; ++i) peak = max(peak, load(plan.peaks + at(i)));
  F32x16 sum = zero();
  alignas(64) float factors[kLanes];
  float* out = args.out + (row.batch_row * args.heads + panel.begin) * dim;  // [panel.count, dim]
  for (int64_t i = 0; i < num_partitions; ++i) {
    const F32x16 factor = exp(load(plan.peaks + at(i)) - peak);
    sum = fma(load(plan.sums + at(i)), factor, sum);
    store(factors, factor);
    const float* mixed = plan.mixed + (row.first_partition + i) * plan.mixed_size() + panel.begin * dim;
    for (int64_t lane = 0; lane < panel.count; ++lane) {
      for (int64_t d = lane * dim; d < (lane + 1) * dim; d += kLanes) {
        const F32x16 part = load(mixed + d) * broadcast(factors[lane]);
        store(out + d, i == 0 ? part : load(out + d) + part);
      }
    }
  }
  store(factors, sum);
  for (int64_t lane = 0; lane < panel.count; ++lane)
    for (int64_t d = lane * dim; d < (lane + 1) * dim; d += kLanes)
      store(out + d, load(out + d) / broadcast(factors[lane]));
}

}  // namespace

void grouped_attention_generated(const GroupedAttentionArgs& args, OpContext& context) {
  SLUICE_CHECK(args.head_dim % kLanes == 0, "head_dim={} must be a multiple of {}", args.head_dim, kLanes);
  SLUICE_CHECK(args.heads % args.kv_heads == 0, "heads={} kv_heads={}", args.heads, args.kv_heads);
  const Plan plan = make_plan(args, context);
  context.team.parallel_for(plan.num_rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) pack_query(plan, row);
  });
  context.team.parallel_for(plan.num_partitions * plan.panels(), 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t partition = unit / plan.panels();
      const Row* row = std::upper_bound(plan.rows, plan.rows + plan.num_rows, partition,
                                        [](int64_t p, const Row& r) { return p < r.first_partition; }) -
                       1;
      attend_partition(plan, *row, partition - row->first_partition, unit % plan.panels(), plan.workspaces[rank]);
    }
  });
  context.team.parallel_for(plan.num_rows * plan.panels(), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) merge(plan, plan.rows[unit / plan.panels()], unit % plan.panels());
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
