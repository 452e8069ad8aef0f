// Latent attention over chosen positions. As in absorbed attention lanes are heads for the scores and latent dims for
// the sums, and a running softmax (arXiv:2205.14135) goes over tiles of 64; here a tile is gathered:
//
//   stage 1  q [width][heads] = (absorbed, q_rope) * scale                          unit = row
//   stage 2  C [64, width] = entries of positions [64 i, 64 i + 64) of the list;    unit = (row, 16 heads)
//            S = C q;  P = exp(S - max);  L [heads][latent] = L * alpha + P^T C
//
// Tiles start at the beginning of a row's own list: the same sums whatever the batch or the threads. Each unit gathers
// for itself: 64 x 576 values copied for 16 x 64 x 1088 multiply-adds, about a seventh of the time. 128 heads make 8
// units a row; more threads than that are idle when a single token is generated.
#include <algorithm>
#include <utility>

#include "kernels/cpu/backend.h"
#include "kernels/cpu/heads_softmax.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kTileKeys = 64;

struct Row {
  const SequenceSpan* span;
  int64_t batch_row;
};

struct Plan {
  const SparseAttentionArgs& args;
  int64_t width;        // kv_lora_rank + rope_dim
  int64_t head_panels;  // ceil(heads / 16)
  int64_t num_rows = 0;
  Row* rows = nullptr;          // [num_rows]
  float* queries = nullptr;     // [num_rows][head_panels][width][16]
  float* workspaces = nullptr;  // [threads][workspace_size]

  int64_t query_size() const { return head_panels * width * kLanes; }
  // Gathered entries, then probabilities [keys][16] and their transpose.
  int64_t workspace_size() const { return kTileKeys * (width + 2 * kLanes); }
};

Plan make_plan(const SparseAttentionArgs& args, OpContext& context) {
  Plan plan{
      .args = args, .width = args.kv_lora_rank + args.rope_dim, .head_panels = (args.heads + kLanes - 1) / kLanes};
  for (const SequenceSpan& span : args.sequences) plan.num_rows += span.position_end - span.position_begin;
  const auto padded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t row_bytes = padded(plan.num_rows * static_cast<int64_t>(sizeof(Row)));
  const int64_t query_bytes = padded(plan.num_rows * plan.query_size() * 4);
  std::byte* memory = context.scratch.reserve(
      static_cast<size_t>(row_bytes + query_bytes + context.team.size() * plan.workspace_size() * 4));
  plan.rows = reinterpret_cast<Row*>(memory);
  plan.queries = reinterpret_cast<float*>(memory + row_bytes);
  plan.workspaces = reinterpret_cast<float*>(memory + row_bytes + query_bytes);
  Row* row = plan.rows;
  for (const SequenceSpan& span : args.sequences)
    for (int32_t i = 0; i < span.position_end - span.position_begin; ++i) *row++ = {&span, span.row_begin + i};
  return plan;
}

// Stage 1. Heads beyond the last are zeros; nobody reads what becomes of them.
void pack_query(const Plan& plan, int64_t row) {
  const SparseAttentionArgs& args = plan.args;
  const int64_t q_dim = args.nope_dim + args.rope_dim;
  float* out = plan.queries + row * plan.query_size();
  if (args.heads % kLanes != 0) std::fill_n(out, plan.query_size(), 0.0f);
  for (int64_t head = 0; head < args.heads; ++head) {
    float* column = out + head / kLanes * plan.width * kLanes + head % kLanes;
    const float* absorbed = args.absorbed + (head * plan.num_rows + row) * args.kv_lora_rank;
    const float* rope = args.q + (plan.rows[row].batch_row * args.heads + head) * q_dim + args.nope_dim;
    for (int64_t d = 0; d < args.kv_lora_rank; ++d) column[d * kLanes] = absorbed[d] * args.scale;
    column += args.kv_lora_rank * kLanes;
    for (int64_t d = 0; d < args.rope_dim; ++d) column[d * kLanes] = rope[d] * args.scale;
  }
}

// entries[count, width] of the listed positions, as f32.
void gather(const Plan& plan, const Row& row, const int32_t* positions, int32_t count, float* entries) {
  const LatentCache& cache = plan.args.cache;
  for (int32_t j = 0; j < count; ++j, entries += plan.width) {
    const std::byte* entry = entry_address(cache, row.span->pages, positions[j], plan.width);
    if (cache.dtype == DType::kF32) {
      std::copy_n(reinterpret_cast<const float*>(entry), plan.width, entries);
      continue;
    }
    const auto* source = reinterpret_cast<const uint16_t*>(entry);
    int64_t i = 0;
    for (; i + kLanes <= plan.width; i += kLanes) store(entries + i, load_bf16(source + i));
    for (; i < plan.width; ++i) entries[i] = bf16_to_f32(source[i]);
  }
}

// Stage 2 for one row and one panel of heads.
void attend(const Plan& plan, int64_t row_index, int64_t panel, float* workspace) {
  const SparseAttentionArgs& args = plan.args;
  const int64_t rank = args.kv_lora_rank;
  const int64_t num_heads = std::min<int64_t>(kLanes, args.heads - panel * kLanes);
  const auto latent = [&](int64_t head) {
    return args.latents + ((panel * kLanes + head) * plan.num_rows + row_index) * rank;
  };
  for (int64_t head = 0; head < num_heads; ++head) std::fill_n(latent(head), rank, 0.0f);
  const float* queries = plan.queries + row_index * plan.query_size() + panel * plan.width * kLanes;
  const int32_t* positions = args.positions + row_index * args.num_positions;
  float* entries = workspace;
  float* probabilities = entries + kTileKeys * plan.width;  // [64][16]
  float* transposed = probabilities + kTileKeys * kLanes;   // [16][64]
  HeadsSoftmax softmax;
  alignas(64) float factors[kLanes];
  for (int32_t begin = 0; begin < args.num_positions; begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, args.num_positions - begin);
    gather(plan, plan.rows[row_index], positions + begin, count, entries);
    multiply_block(
        count, [&](int64_t key) { return entries + key * plan.width; }, plan.width,
        TileWeights<float>{queries, plan.width * kLanes, kLanes}, 1,
        [&](int64_t key, int64_t, F32x16 value) { store(probabilities + key * kLanes, value); });
    store(factors, softmax.fold(probabilities, count));
    for (int64_t head = 0; head < num_heads; ++head)
      for (int32_t key = 0; key < count; ++key) transposed[head * kTileKeys + key] = probabilities[key * kLanes + head];
    multiply_block(
        num_heads, [&](int64_t head) { return transposed + head * kTileKeys; }, count,
        TileWeights<float>{entries, kLanes, plan.width}, rank / kLanes,
        [&](int64_t head, int64_t p, F32x16 value) {
          float* out = latent(head) + p * kLanes;
          store(out, fma(load(out), broadcast(factors[head]), value));
        });
  }
  store(factors, softmax.sum);
  for (int64_t head = 0; head < num_heads; ++head)
    for (int64_t d = 0; d < rank; d += kLanes)
      store(latent(head) + d, load(latent(head) + d) / broadcast(factors[head]));
}

}  // namespace

void sparse_attention(const SparseAttentionArgs& args, OpContext& context) {
  SLUICE_CHECK(args.kv_lora_rank % kLanes == 0, "kv_lora_rank={} must be a multiple of {}", args.kv_lora_rank, kLanes);
  const Plan plan = make_plan(args, context);
  context.team.parallel_for(plan.num_rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) pack_query(plan, row);
  });
  context.team.parallel_for(plan.num_rows * plan.head_panels, 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t unit = begin; unit < end; ++unit)
      attend(plan, unit / plan.head_panels, unit % plan.head_panels, plan.workspaces + rank * plan.workspace_size());
  });
}

void scatter_rows(const ScatterRowsArgs& args, OpContext& context) {
  // A copy is bound by memory: 64 KiB is some 10 us of one core, well above a hand-over.
  const int64_t grain = std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, args.cols));
  context.team.parallel_for(args.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      std::copy_n(args.x + i * args.cols, args.cols, args.y + args.row_ids[i] * args.cols);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
