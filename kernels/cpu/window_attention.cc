// DeepSeek-V4's attention: window, then compressed entries, with a sink per head. Lanes are heads for the scores and
// vector dims for the sums, and a running softmax goes over tiles of 64 of the row's own list, as in
// sparse_attention.cc:
//
//   unit = (row, 16 heads)    q [dim][16] = queries * scale
//                             C [64, dim] = entries [64 i, 64 i + 64) of the list
//                             S = C q;  P = exp(S - max);  L [16][dim] = L * alpha + P^T C
//                             sink, division, inverse rotation
//
// A list begins with the oldest position of the row's window, so a row's sums depend on its position (and choice)
// alone. Each unit packs its queries and gathers for itself: 8k values moved of the former, 64 x 512 per tile of the
// latter for 16 x 64 x 1024 multiply-adds, about a seventh of the time.
#include <algorithm>

#include "sluice/check.h"

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/compressed_cache.h"
#include "kernels/cpu/heads_softmax.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kTileKeys = 64;
constexpr int32_t kMaxRopeDim = 1024;

struct Row {
  const SequenceSpan* span;
  int32_t position;
  int64_t batch_row;
};

struct Workspace {
  float* queries = nullptr;        // [dim][16]
  float* entries = nullptr;        // [64][dim]
  float* probabilities = nullptr;  // [64][16]
  float* transposed = nullptr;     // [16][64]
};

struct Plan {
  const WindowAttentionArgs& args;
  int64_t num_rows = 0;
  Row* rows = nullptr;              // [num_rows]
  Workspace* workspaces = nullptr;  // [threads]

  int64_t head_panels() const { return (args.heads + kLanes - 1) / kLanes; }
};

Plan make_plan(const WindowAttentionArgs& args, OpContext& context) {
  Plan plan{.args = args};
  for (const SequenceSpan& span : args.sequences) plan.num_rows += span.position_end - span.position_begin;
  const int num_threads = context.team.size();
  const auto carve = [&](Carver carver, bool real) {
    plan.rows = carver.take<Row>(plan.num_rows);
    plan.workspaces = carver.take<Workspace>(num_threads);
    for (int rank = 0; rank < num_threads; ++rank) {
      const Workspace workspace{carver.take<float>(int64_t{args.dim} * kLanes),
                                carver.take<float>(int64_t{args.dim} * kTileKeys),
                                carver.take<float>(kTileKeys * kLanes), carver.take<float>(kTileKeys * kLanes)};
      if (real) plan.workspaces[rank] = workspace;
    }
    return carver.bytes();
  };
  carve(Carver(context.scratch.reserve(carve(Carver(), false))), true);
  Row* row = plan.rows;
  for (const SequenceSpan& span : args.sequences)
    for (int32_t t = span.position_begin; t < span.position_end; ++t)
      *row++ = {&span, t, span.row_begin + t - span.position_begin};
  return plan;
}

// The list of row `index`.
struct KeyList {
  KeyList(const Plan& plan, int64_t index)
      : args(plan.args),
        row(plan.rows[index]),
        selected(args.selected ? args.selected + index * args.num_selected : nullptr),
        begin(std::max(0, row.position - args.window + 1)),
        num_window(row.position - begin + 1) {
    if (args.compressed.ratio == 0) return;
    const int32_t complete = (row.position + 1) / args.compressed.ratio;
    num_compressed = selected ? args.num_selected : complete;
    if (selected)
      SLUICE_DCHECK(num_compressed == 0 || selected[num_compressed - 1] < complete, "entry {} of {}",
                    selected[num_compressed - 1], complete);
  }
  int32_t size() const { return num_window + num_compressed; }

  // entries[last - first, dim], as f32.
  void gather(int32_t first, int32_t last, float* entries) const {
    for (int32_t j = first; j < last; ++j, entries += args.dim) {
      if (j < num_window) {
        widen_entry(args.cache, entry_address(args.cache, row.span->pages, begin + j, args.dim), args.dim, entries);
      } else {
        const int32_t entry = selected ? selected[j - num_window] : j - num_window;
        widen_entry(args.compressed.entries, entry_address(args.compressed, row.span->pages, entry, args.dim), args.dim,
                    entries);
      }
    }
  }

  const WindowAttentionArgs& args;
  const Row& row;
  const int32_t* selected;  // or null
  int32_t begin;            // the window's first position
  int32_t num_window;
  int32_t num_compressed = 0;
};

// Heads beyond the last are zeros; nobody reads what becomes of them.
void pack_queries(const Plan& plan, const Row& row, int64_t panel, float* out) {
  const WindowAttentionArgs& args = plan.args;
  const int64_t num_heads = std::min<int64_t>(kLanes, args.heads - panel * kLanes);
  if (num_heads < kLanes) std::fill_n(out, args.dim * kLanes, 0.0f);
  for (int64_t head = 0; head < num_heads; ++head) {
    const float* q = args.q + (row.batch_row * args.heads + panel * kLanes + head) * args.dim;
    for (int64_t d = 0; d < args.dim; ++d) out[d * kLanes + head] = q[d] * args.scale;
  }
}

void attend(const Plan& plan, int64_t row_index, int64_t panel, const Workspace& work) {
  const WindowAttentionArgs& args = plan.args;
  const Row& row = plan.rows[row_index];
  const int64_t dim = args.dim;
  const int64_t num_heads = std::min<int64_t>(kLanes, args.heads - panel * kLanes);
  float* out = args.out + (row.batch_row * args.heads + panel * kLanes) * dim;  // [num_heads, dim]
  std::fill_n(out, num_heads * dim, 0.0f);
  pack_queries(plan, row, panel, work.queries);
  const KeyList keys(plan, row_index);
  HeadsSoftmax softmax;
  alignas(64) float factors[kLanes];
  for (int32_t begin = 0; begin < keys.size(); begin += kTileKeys) {
    const int32_t count = std::min(kTileKeys, keys.size() - begin);
    keys.gather(begin, begin + count, work.entries);
    multiply_block(
        count, [&](int64_t key) { return work.entries + key * dim; }, dim,
        TileWeights<float>{work.queries, dim * kLanes, kLanes}, 1,
        [&](int64_t key, int64_t, F32x16 value) { store(work.probabilities + key * kLanes, value); });
    store(factors, softmax.fold(work.probabilities, count));
    for (int64_t head = 0; head < num_heads; ++head)
      for (int32_t key = 0; key < count; ++key)
        work.transposed[head * kTileKeys + key] = work.probabilities[key * kLanes + head];
    multiply_block(
        num_heads, [&](int64_t head) { return work.transposed + head * kTileKeys; }, count,
        TileWeights<float>{work.entries, kLanes, dim}, dim / kLanes,
        [&](int64_t head, int64_t p, F32x16 value) {
          float* target = out + head * dim + p * kLanes;
          store(target, fma(load(target), broadcast(factors[head]), value));
        });
  }
  // The sink: one more logit, without a value.
  const F32x16 sinks = load_first(args.sinks + panel * kLanes, num_heads);
  const F32x16 peak = max(softmax.peak, sinks);
  const F32x16 alpha = exp(softmax.peak - peak);
  store(factors, alpha / fma(softmax.sum, alpha, exp(sinks - peak)));
  alignas(64) float back[kMaxRopeDim];  // the row's angles, turned round
  const float* cos_sin = args.cos_sin + row.batch_row * args.rope_dim;
  for (int32_t i = 0; i < args.rope_dim; ++i) back[i] = i < args.rope_dim / 2 ? cos_sin[i] : -cos_sin[i];
  for (int64_t head = 0; head < num_heads; ++head) {
    float* vector = out + head * dim;
    for (int64_t d = 0; d < dim; d += kLanes) store(vector + d, load(vector + d) * broadcast(factors[head]));
    rotate(vector + dim - args.rope_dim, back, args.rope_dim, RopeLayout::kPair);
  }
}

}  // namespace

void window_attention(const WindowAttentionArgs& args, OpContext& context) {
  SLUICE_CHECK(args.dim % kLanes == 0 && args.rope_dim <= std::min(args.dim, kMaxRopeDim), "dim={} rope_dim={}",
               args.dim, args.rope_dim);
  const Plan plan = make_plan(args, context);
  context.team.parallel_for(plan.num_rows * plan.head_panels(), 1, [&](int64_t begin, int64_t end, int rank) {
    for (int64_t unit = begin; unit < end; ++unit)
      attend(plan, unit / plan.head_panels(), unit % plan.head_panels(), plan.workspaces[rank]);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
