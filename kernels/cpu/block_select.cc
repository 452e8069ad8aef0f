// Block attention: the pages' means, and the choice of pages by them. Lanes are heads, as in absorbed attention, and
// the means are multiplied as they lie in their pages, bf16 by bf16 in pairs (pair_tile.h):
//
//   stage 1  q [width][heads] of each row, in the cache's type                                          unit = row
//   stage 2  S [64 pages][heads] = M q;  e = exp(S - peak of the partition)           unit = (row, 64 pages)
//   stage 3  mass[page] = sum over heads of e * exp(partition's peak - peak) / sum;  the best    unit = row
//
// With several groups of heads (grouped-query attention) each has panels of its own, and its own part of the means.
//
// A page's mass depends on its row and the pages before alone, and the choice on the masses alone: the same pages
// whatever the batch, the chunk, the threads or the instruction set.
#include <algorithm>
#include <functional>
#include <numeric>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/pair_tile.h"
#include "kernels/cpu/running_softmax.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

// At 16 heads x 576 1.2 Mflop, some 10 us of one core; a context of 64k gives 16 units to share.
constexpr int32_t kPartitionPages = 64;

struct Row {
  const SequenceSpan* span;
  int32_t own_page;
  int64_t batch_row;
  int64_t first_partition;  // index among the partitions of all rows
  int64_t first_page;       // index among the pages of all rows
};

int64_t partitions_of(int32_t own_page) { return (own_page + kPartitionPages - 1) / kPartitionPages; }

struct Plan {
  const BlockSelectArgs& args;
  int64_t width;        // kv_lora_rank + rope_dim
  int64_t heads_each;   // of a group
  int64_t panels_each;  // of a group: ceil(heads_each / 16)
  int64_t head_panels;  // of all groups
  int64_t num_rows = 0, num_partitions = 0, num_pages = 0, max_pages = 0;

  Row* rows = nullptr;              // [num_rows]
  std::byte* queries = nullptr;     // [num_rows][head_panels]: f32 [width][16] or bf16 in pairs [width / 2][16][2]
  float* peaks = nullptr;           // [num_partitions][padded_heads]
  float* sums = nullptr;            // [num_partitions][padded_heads]
  float* masses = nullptr;          // [num_pages][padded_heads]; scores first
  std::byte* workspaces = nullptr;  // [threads][workspace_bytes]

  int64_t padded_heads() const { return head_panels * kLanes; }
  int64_t lane_of(int64_t head) const { return head / heads_each * panels_each * kLanes + head % heads_each; }
  // Heads in the panel; the lanes behind them are empty.
  int64_t heads_of(int64_t panel) const { return std::min<int64_t>(kLanes, heads_each - panel % panels_each * kLanes); }
  bool is_bf16() const { return args.means.dtype == DType::kBF16; }
  int64_t head_bytes() const { return width * (is_bf16() ? 2 : 4); }
  int64_t query_bytes() const { return padded_heads() * head_bytes(); }
  // Stage 1: the queries as rows. Stage 3: masses, and once more to be ordered.
  int64_t workspace_bytes() const { return (std::max(query_bytes(), max_pages * 8) + 63) / 64 * 64; }
};

void place(Plan& plan, Carver& carver, int threads) {
  plan.rows = carver.take<Row>(plan.num_rows);
  plan.queries = carver.take<std::byte>(plan.num_rows * plan.query_bytes());
  plan.peaks = carver.take<float>(plan.num_partitions * plan.padded_heads());
  plan.sums = carver.take<float>(plan.num_partitions * plan.padded_heads());
  plan.masses = carver.take<float>(plan.num_pages * plan.padded_heads());
  plan.workspaces = carver.take<std::byte>(threads * plan.workspace_bytes());
}

Plan make_plan(const BlockSelectArgs& args, OpContext& context) {
  const int64_t heads_each = args.heads / args.groups, panels_each = (heads_each + kLanes - 1) / kLanes;
  Plan plan{.args = args,
            .width = args.kv_lora_rank + args.rope_dim,
            .heads_each = heads_each,
            .panels_each = panels_each,
            .head_panels = args.groups * panels_each};
  const auto for_each_row = [&](auto&& body) {
    for (const SequenceSpan& span : args.sequences)
      for (int32_t t = span.position_begin; t < span.position_end; ++t) body(span, t, t / kPageTokens);
  };
  for_each_row([&](const SequenceSpan&, int32_t t, int32_t own_page) {
    SLUICE_CHECK(own_page >= args.num_pages, "page {} of position {}: no more than {} pages to choose from", own_page,
                 t, args.num_pages);
    plan.num_rows += 1;
    plan.num_partitions += partitions_of(own_page);
    plan.num_pages += own_page;
    plan.max_pages = std::max<int64_t>(plan.max_pages, own_page);
  });
  Carver count;
  place(plan, count, context.team.size());
  Carver carver(context.scratch.reserve(count.bytes()));
  place(plan, carver, context.team.size());
  int64_t row = 0, partition = 0, page = 0;
  for_each_row([&](const SequenceSpan& span, int32_t t, int32_t own_page) {
    plan.rows[row++] = {&span, own_page, span.row_begin + t - span.position_begin, partition, page};
    partition += partitions_of(own_page);
    page += own_page;
  });
  return plan;
}

// Stage 1. Lanes without a head are zeros; their masses are left out in stage 3.
void pack_query(const Plan& plan, int64_t index, std::byte* rows) {
  const BlockSelectArgs& args = plan.args;
  const F32x16 scale = broadcast(args.scale);
  const auto put = [&](int64_t lane, int64_t d, const float* from, int64_t count) {
    std::byte* at = rows + lane * plan.head_bytes();
    for (int64_t i = 0; i < count; i += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, count - i);
      const F32x16 value = load_first(from + i, lanes) * scale;
      if (plan.is_bf16()) {
        alignas(64) uint16_t rounded[kLanes];
        store_bf16(rounded, value);
        std::copy_n(rounded, lanes, reinterpret_cast<uint16_t*>(at) + d + i);
      } else {
        store_first(reinterpret_cast<float*>(at) + d + i, value, lanes);
      }
    }
  };
  if (plan.padded_heads() != args.heads) std::fill_n(rows, plan.query_bytes(), std::byte{0});
  for (int64_t head = 0; head < args.heads; ++head) {
    const int64_t lane = plan.lane_of(head);
    put(lane, 0, args.absorbed + (head * plan.num_rows + index) * args.kv_lora_rank, args.kv_lora_rank);
    const int64_t q_dim = args.nope_dim + args.rope_dim;
    put(lane, args.kv_lora_rank, args.q + (plan.rows[index].batch_row * args.heads + head) * q_dim + args.nope_dim,
        args.rope_dim);
  }
  std::byte* out = plan.queries + index * plan.query_bytes();
  for (int64_t panel = 0; panel < plan.head_panels; ++panel) {
    const int64_t offset = panel * kLanes * plan.head_bytes();
    transpose_rows(rows + offset, plan.head_bytes() / 4, out + offset);
  }
}

// Scores of pages [begin, end), heads in lanes: [end - begin][padded_heads].
void score_pages(const Plan& plan, const Row& row, const std::byte* query, int32_t begin, int32_t end, float* scores) {
  const LatentCache& means = plan.args.means;
  const int64_t heads = plan.padded_heads();
  const int64_t panel_bytes = kLanes * plan.head_bytes();
  for (int64_t group = 0; group < plan.args.groups; ++group) {
    const int64_t first_panel = group * plan.panels_each;
    const auto mean = [&](int64_t i) {
      return means.base + value(row.span->pages[begin + i]) * means.page_stride + group * plan.head_bytes();
    };
    const auto put = [&](int64_t i, int64_t p, F32x16 score) {
      store(scores + i * heads + (first_panel + p) * kLanes, score);
    };
    const std::byte* queries = query + first_panel * panel_bytes;
    if (plan.is_bf16()) {
      multiply_pairs(
          end - begin, [&](int64_t i) { return reinterpret_cast<const uint16_t*>(mean(i)); }, 2, plan.width / 2,
          {reinterpret_cast<const uint16_t*>(queries), plan.width * kLanes}, plan.panels_each, put);
    } else {
      multiply_block(
          end - begin, [&](int64_t i) { return reinterpret_cast<const float*>(mean(i)); }, plan.width,
          TileWeights<float>{reinterpret_cast<const float*>(queries), plan.width * kLanes, kLanes}, plan.panels_each,
          put);
    }
  }
}

// Stage 2 for one (row, partition).
void estimate_partition(const Plan& plan, int64_t index, int64_t partition) {
  const Row& row = plan.rows[index];
  const int64_t heads = plan.padded_heads();
  const auto begin = static_cast<int32_t>(partition * kPartitionPages);
  const int32_t end = std::min(row.own_page, begin + kPartitionPages);
  float* masses = plan.masses + (row.first_page + begin) * heads;
  score_pages(plan, row, plan.queries + index * plan.query_bytes(), begin, end, masses);
  for (int64_t lane = 0; lane < heads; lane += kLanes) {
    F32x16 peak = broadcast(kClosed), sum = zero();
    for (int64_t i = 0; i < end - begin; ++i) peak = max(peak, load(masses + i * heads + lane));
    for (int64_t i = 0; i < end - begin; ++i) {
      const F32x16 mass = exp(load(masses + i * heads + lane) - peak);
      store(masses + i * heads + lane, mass);
      sum = sum + mass;
    }
    store(plan.peaks + (row.first_partition + partition) * heads + lane, peak);
    store(plan.sums + (row.first_partition + partition) * heads + lane, sum);
  }
}

// Masses of all pages of a row, over all heads. Overwrites its partitions' peaks.
void gather_masses(const Plan& plan, const Row& row, float* masses) {
  const int64_t heads = plan.padded_heads(), num_partitions = partitions_of(row.own_page);
  float* peaks = plan.peaks + row.first_partition * heads;
  const float* sums = plan.sums + row.first_partition * heads;
  for (int64_t lane = 0; lane < heads; lane += kLanes) {
    F32x16 peak = broadcast(kClosed), total = zero();
    for (int64_t i = 0; i < num_partitions; ++i) peak = max(peak, load(peaks + i * heads + lane));
    for (int64_t i = 0; i < num_partitions; ++i) {
      const F32x16 factor = exp(load(peaks + i * heads + lane) - peak);
      total = fma(load(sums + i * heads + lane), factor, total);
      store(peaks + i * heads + lane, factor);
    }
    const int64_t lanes = plan.heads_of(lane / kLanes);
    for (int64_t i = 0; i < num_partitions; ++i) {
      alignas(64) float shares[kLanes] = {};
      store_first(shares, load(peaks + i * heads + lane) / total, lanes);
      store(peaks + i * heads + lane, load(shares));
    }
  }
  for (int64_t page = 0; page < row.own_page; ++page) {
    F32x16 sum = zero();
    for (int64_t lane = 0; lane < heads; lane += kLanes)
      sum = fma(load(plan.masses + (row.first_page + page) * heads + lane),
                load(peaks + page / kPartitionPages * heads + lane), sum);
    masses[page] = reduce_add(sum);
  }
}

// Stage 3. Masses are not negative, so their bits order as they do.
void choose(const Plan& plan, int64_t index, float* masses) {
  const BlockSelectArgs& args = plan.args;
  const Row& row = plan.rows[index];
  gather_masses(plan, row, masses);
  const int32_t begin = args.sink_pages, end = row.own_page - args.window_pages + 1;
  const int32_t wanted = args.num_pages - args.sink_pages - args.window_pages;
  int32_t* out = args.pages + index * args.num_pages;
  std::iota(out, out + begin, 0);
  std::iota(out + args.num_pages - args.window_pages, out + args.num_pages, end);
  if (wanted == 0) return;
  out += begin;
  float* order = masses + row.own_page;
  std::copy(masses + begin, masses + end, order);
  std::nth_element(order, order + wanted - 1, order + (end - begin), std::greater<>());
  const float bar = order[wanted - 1];
  auto num_on_bar = wanted - std::count_if(order, order + wanted, [&](float mass) { return mass > bar; });
  for (int32_t page = begin; page < end; ++page)
    if (masses[page] > bar || (masses[page] == bar && num_on_bar-- > 0)) *out++ = page;
}

void write_mean(const BlockMeansArgs& args, PageId page) {
  const int64_t row_bytes = args.width * element_bytes(args.cache);
  const std::byte* from = args.cache.base + value(page) * args.cache.page_stride;
  std::byte* to = args.means.base + value(page) * args.means.page_stride;
  const F32x16 count = broadcast(kPageTokens);
  for (int64_t d = 0; d < args.width; d += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, args.width - d);
    alignas(32) uint16_t values[kLanes] = {};
    F32x16 sum = zero();
    for (int64_t i = 0; i < kPageTokens; ++i) {
      if (args.cache.dtype == DType::kF32) {
        sum = sum + load_first(reinterpret_cast<const float*>(from + i * row_bytes) + d, lanes);
      } else {
        std::copy_n(reinterpret_cast<const uint16_t*>(from + i * row_bytes) + d, lanes, values);
        sum = sum + load_bf16(values);
      }
    }
    if (args.means.dtype == DType::kF32) {
      store_first(reinterpret_cast<float*>(to) + d, sum / count, lanes);
    } else {
      store_bf16(values, sum / count);
      std::copy_n(values, lanes, reinterpret_cast<uint16_t*>(to) + d);
    }
  }
}

}  // namespace

void block_means(const BlockMeansArgs& args, OpContext& context) {
  SLUICE_CHECK(args.cache.dtype == args.means.dtype, "cache {} means {}", name(args.cache.dtype),
               name(args.means.dtype));
  for (const SequenceSpan& span : args.sequences) {
    const int32_t first = span.position_begin / kPageTokens, last = span.position_end / kPageTokens;
    context.team.parallel_for(last - first, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) write_mean(args, span.pages[first + i]);
    });
  }
}

void block_select(const BlockSelectArgs& args, OpContext& context) {
  SLUICE_CHECK(args.sink_pages + args.window_pages <= args.num_pages && args.window_pages > 0,
               "sink {} window {} of {} pages", args.sink_pages, args.window_pages, args.num_pages);
  SLUICE_CHECK((args.kv_lora_rank + args.rope_dim) % 2 == 0, "kv_lora_rank={} rope_dim={}", args.kv_lora_rank,
               args.rope_dim);
  const Plan plan = make_plan(args, context);
  const auto workspace = [&](int rank) { return plan.workspaces + rank * plan.workspace_bytes(); };
  context.team.parallel_for(plan.num_rows, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t row = begin; row < end; ++row) pack_query(plan, row, workspace(rank));
  });
  context.team.parallel_for(plan.num_partitions, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const Row* row = std::upper_bound(plan.rows, plan.rows + plan.num_rows, unit,
                                        [](int64_t u, const Row& r) { return u < r.first_partition; }) -
                       1;
      estimate_partition(plan, row - plan.rows, unit - row->first_partition);
    }
  });
  context.team.parallel_for(plan.num_rows, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t row = begin; row < end; ++row) choose(plan, row, reinterpret_cast<float*>(workspace(rank)));
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
