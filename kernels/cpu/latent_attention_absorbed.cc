// Attention of generated tokens: K_h^T moves to the query's side and V_h behind the sum, so all heads of a row share
// each latent that is read. Lanes are heads for the scores and latent dims for the sums:
//
//   stage 1  q~ [width][heads]   = K_h^T q_nope, then q_rope, times scale       unit = head, all rows at once
//   stage 2  S [64 keys][heads]  = C q~;  P = exp(S - max);  L [heads][latent] += P^T C
//            unit = (row, partition of 512 positions), so that one long row feeds all threads
//   stage 3  merge the partitions, ascending;  o_h = V_h (L_h / sum)            unit = (row, 16 heads)
//
// Partitions and tiles start at absolute positions: the same sums whatever the batch or the number of threads.
#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/matmul.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kTileKeys = kPageTokens;
// 8 tiles: at 16 heads x 576 about 9 Mflop, some 100 us of one core; far above the cost of a hand-over, small enough
// that a context of 4k gives 8 units to share.
constexpr int32_t kPartitionKeys = 8 * kTileKeys;
constexpr float kClosed = -std::numeric_limits<float>::infinity();

struct Row {
  const SequenceSpan* span;
  int32_t position;
  int64_t batch_row;
  int64_t first_partition;  // index among the partitions of all rows
};

// Shapes that all stages use; heads are padded to whole lanes.
struct Plan {
  const LatentAttentionArgs& args;
  int64_t width;        // kv_lora_rank + rope_dim
  int64_t head_panels;  // ceil(heads / 16)
  int64_t num_rows = 0;
  int64_t num_partitions = 0;
  Row* rows = nullptr;          // [num_rows]
  float* queries = nullptr;     // [num_rows][head_panels][width][16]
  float* peaks = nullptr;       // [num_partitions][head_panels * 16]
  float* sums = nullptr;        // [num_partitions][head_panels * 16]
  float* latents = nullptr;     // [num_partitions][heads][kv_lora_rank]
  float* workspaces = nullptr;  // [threads][workspace]

  int64_t padded_heads() const { return head_panels * kLanes; }
  int64_t query_size() const { return head_panels * width * kLanes; }
  int64_t latent_size() const { return int64_t{args.heads} * args.kv_lora_rank; }
  // A widened page, then probabilities [keys][heads] and their transpose.
  int64_t workspace_size() const { return kTileKeys * width + 2 * kTileKeys * padded_heads() + padded_heads(); }
};

int64_t partitions_of(int32_t position) { return position / kPartitionKeys + 1; }

Plan make_plan(const LatentAttentionArgs& args, OpContext& context) {
  Plan plan{
      .args = args, .width = args.kv_lora_rank + args.rope_dim, .head_panels = (args.heads + kLanes - 1) / kLanes};
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      plan.num_rows += 1;
      plan.num_partitions += partitions_of(position);
    }
  }
  const auto padded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t row_bytes = padded(plan.num_rows * static_cast<int64_t>(sizeof(Row)));
  const int64_t counts[] = {plan.num_rows * plan.query_size(), plan.num_partitions * plan.padded_heads(),
                            plan.num_partitions * plan.padded_heads(), plan.num_partitions * plan.latent_size(),
                            context.team.size() * plan.workspace_size()};
  int64_t total = row_bytes;
  for (int64_t count : counts) total += padded(count * 4);
  std::byte* memory = context.scratch.reserve(static_cast<size_t>(total));
  plan.rows = reinterpret_cast<Row*>(std::exchange(memory, memory + row_bytes));
  float** const targets[] = {&plan.queries, &plan.peaks, &plan.sums, &plan.latents, &plan.workspaces};
  for (size_t i = 0; i < std::size(targets); ++i)
    *targets[i] = reinterpret_cast<float*>(std::exchange(memory, memory + padded(counts[i] * 4)));

  int64_t row = 0, partition = 0;
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      plan.rows[row++] = {&span, position, span.row_begin + position - span.position_begin, partition};
      partition += partitions_of(position);
    }
  }
  return plan;
}

// Stage 1 for one head and all rows.
void absorb_head(const Plan& plan, int32_t head) {
  const LatentAttentionArgs& args = plan.args;
  const int64_t q_dim = args.nope_dim + args.rope_dim;
  const auto query = [&](int64_t r) { return args.q + (plan.rows[r].batch_row * args.heads + head) * q_dim; };
  const auto column = [&](int64_t r) {  // element d at [d * 16]
    return plan.queries + r * plan.query_size() + head / kLanes * plan.width * kLanes + head % kLanes;
  };
  const Weight& weight = args.k_up_t[static_cast<size_t>(head)];
  with_panels(weight, 0, [&](auto weights) {
    multiply_block(plan.num_rows, query, args.nope_dim, weights, num_panels(weight),
                   [&](int64_t r, int64_t panel, F32x16 value) {
                     alignas(64) float lanes[kLanes];
                     store(lanes, value * broadcast(args.scale));
                     const int64_t d0 = panel * kLanes;
                     float* out = column(r) + d0 * kLanes;
                     for (int64_t i = 0; i < std::min<int64_t>(kLanes, args.kv_lora_rank - d0); ++i)
                       out[i * kLanes] = lanes[i];
                   });
  });
  for (int64_t r = 0; r < plan.num_rows; ++r) {
    float* out = column(r) + args.kv_lora_rank * kLanes;
    for (int32_t i = 0; i < args.rope_dim; ++i) out[i * kLanes] = query(r)[args.nope_dim + i] * args.scale;
  }
}

// Folds `count` entries into the running peak and sum (per head) and the latent sums.
void attend_tile(const Plan& plan, const float* queries, const float* entries, int32_t count, float* probabilities,
                 int64_t partition) {
  const LatentAttentionArgs& args = plan.args;
  const int64_t heads = plan.padded_heads();
  float* transposed = probabilities + kTileKeys * heads;  // [heads][64]
  float* alphas = transposed + heads * kTileKeys;         // [heads]
  multiply_block(
      count, [&](int64_t key) { return entries + key * plan.width; }, plan.width,
      TileWeights<float>{queries, plan.width * kLanes, kLanes}, plan.head_panels,
      [&](int64_t key, int64_t p, F32x16 value) { store(probabilities + key * heads + p * kLanes, value); });
  for (int64_t p = 0; p < plan.head_panels; ++p) {
    float* peak_at = plan.peaks + partition * heads + p * kLanes;
    float* sum_at = plan.sums + partition * heads + p * kLanes;
    F32x16 peak = load(peak_at);
    for (int32_t key = 0; key < count; ++key) peak = max(peak, load(probabilities + key * heads + p * kLanes));
    const F32x16 alpha = exp(load(peak_at) - peak);  // first tile: exp(-inf) = 0
    F32x16 sum = load(sum_at) * alpha;
    for (int32_t key = 0; key < count; ++key) {
      float* at = probabilities + key * heads + p * kLanes;
      const F32x16 probability = exp(load(at) - peak);
      store(at, probability);
      sum = sum + probability;
    }
    store(peak_at, peak);
    store(sum_at, sum);
    store(alphas + p * kLanes, alpha);
  }
  for (int32_t key = 0; key < count; ++key)
    for (int32_t head = 0; head < args.heads; ++head)
      transposed[head * kTileKeys + key] = probabilities[key * heads + head];
  float* latents = plan.latents + partition * plan.latent_size();
  const int64_t full_panels = args.kv_lora_rank / kLanes;
  multiply_block(
      args.heads, [&](int64_t head) { return transposed + head * kTileKeys; }, count,
      TileWeights<float>{entries, kLanes, plan.width}, full_panels,
      [&](int64_t head, int64_t p, F32x16 value) {
        float* out = latents + head * args.kv_lora_rank + p * kLanes;
        store(out, fma(load(out), broadcast(alphas[head]), value));
      });
}

// Stage 2 for one (row, partition).
void attend_partition(const Plan& plan, const Row& row, int64_t index, float* workspace) {
  const int64_t partition = row.first_partition + index;
  const int64_t heads = plan.padded_heads();
  std::fill_n(plan.peaks + partition * heads, heads, kClosed);
  std::fill_n(plan.sums + partition * heads, heads, 0.0f);
  std::fill_n(plan.latents + partition * plan.latent_size(), plan.latent_size(), 0.0f);
  const float* queries = plan.queries + (&row - plan.rows) * plan.query_size();
  const auto end = static_cast<int32_t>(std::min<int64_t>(row.position + 1, (index + 1) * kPartitionKeys));
  for (auto begin = static_cast<int32_t>(index * kPartitionKeys); begin < end; begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, end - begin);
    const float* entries =
        page_entries(plan.args.cache, row.span->pages[begin / kTileKeys], count, plan.width, workspace);
    attend_tile(plan, queries, entries, count, workspace + kTileKeys * plan.width, partition);
  }
}

// Stage 3 for one row and one panel of heads.
void merge(const Plan& plan, const Row& row, int64_t panel) {
  const LatentAttentionArgs& args = plan.args;
  const int64_t heads = plan.padded_heads();
  const int64_t num_partitions = partitions_of(row.position);
  float* first = plan.latents + row.first_partition * plan.latent_size();
  F32x16 peak = broadcast(kClosed);
  for (int64_t i = 0; i < num_partitions; ++i)
    peak = max(peak, load(plan.peaks + (row.first_partition + i) * heads + panel * kLanes));
  F32x16 sum = zero();
  alignas(64) float factors[kLanes];
  const auto head_end = std::min<int64_t>(args.heads, (panel + 1) * kLanes);
  for (int64_t i = 0; i < num_partitions; ++i) {
    const int64_t partition = row.first_partition + i;
    const F32x16 factor = exp(load(plan.peaks + partition * heads + panel * kLanes) - peak);
    sum = fma(load(plan.sums + partition * heads + panel * kLanes), factor, sum);
    store(factors, factor);
    for (int64_t head = panel * kLanes; head < head_end; ++head) {
      float* into = first + head * args.kv_lora_rank;
      const float* from = plan.latents + partition * plan.latent_size() + head * args.kv_lora_rank;
      for (int64_t d = 0; d < args.kv_lora_rank; d += kLanes) {
        const F32x16 part = load(from + d) * broadcast(factors[head % kLanes]);
        store(into + d, i == 0 ? part : load(into + d) + part);
      }
    }
  }
  alignas(64) float totals[kLanes];
  store(totals, sum);
  for (int64_t head = panel * kLanes; head < head_end; ++head) {
    const Weight& weight = args.v_up[static_cast<size_t>(head)];
    const F32x16 total = broadcast(totals[head % kLanes]);
    float* out = args.out + (row.batch_row * args.heads + head) * args.v_dim;
    with_panels(weight, 0, [&](auto weights) {
      multiply_block(
          1, [&](int64_t) { return first + head * args.kv_lora_rank; }, args.kv_lora_rank, weights, num_panels(weight),
          [&](int64_t, int64_t p, F32x16 value) {
            const int64_t left = std::min<int64_t>(kLanes, args.v_dim - p * kLanes);
            store_first(out + p * kLanes, value / total, left);
          });
    });
  }
}

}  // namespace

void latent_attention_absorbed(const LatentAttentionArgs& args, OpContext& context) {
  SLUICE_CHECK(args.kv_lora_rank % kLanes == 0, "kv_lora_rank={} must be a multiple of {}", args.kv_lora_rank, kLanes);
  const Plan plan = make_plan(args, context);
  context.team.parallel_for(args.heads, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head) absorb_head(plan, static_cast<int32_t>(head));
  });
  context.team.parallel_for(plan.num_partitions, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t partition = begin; partition < end; ++partition) {
      const Row* row = std::upper_bound(plan.rows, plan.rows + plan.num_rows, partition,
                                        [](int64_t p, const Row& r) { return p < r.first_partition; }) -
                       1;
      attend_partition(plan, *row, partition - row->first_partition, plan.workspaces + rank * plan.workspace_size());
    }
  });
  context.team.parallel_for(plan.num_rows * plan.head_panels, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit)
      merge(plan, plan.rows[unit / plan.head_panels], unit % plan.head_panels);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
