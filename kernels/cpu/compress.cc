// DeepSeek-V4's cache entries: the window's vectors, and blocks of positions that become one entry. Channels do not
// know each other, so lanes are channels and positions follow one another in time:
//
//   stage 1  running softmax over the positions of a span, sums of complete blocks aside   unit = (span, 16 channels)
//   stage 2  norm, rotation, rounding into the cache                                       unit = complete block
//
// The state that stage 1 starts from and leaves is exact (f32), and each position is one update: the same bits however
// the positions are cut into steps.
#include <limits>

#include "sluice/check.h"

#include "kernels/cpu/backend.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/compressed_cache.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kMaxDim = 2048;       // of an entry; 512 in every released model
constexpr int64_t kGrainUpdates = 512;  // of 16 channels, two exponentials each (some 20 ns)

// z [dim] -> normalised, rotated, rounded, into the cache.
void store_entry(const float* z, const float* norm_weight, float eps, int32_t dim, const float* cos_sin,
                 int32_t rope_dim, const LatentCache& cache, std::byte* target) {
  alignas(64) float entry[kMaxDim];
  rms_norm_row(z, norm_weight, eps, dim, entry);
  rotate(entry + dim - rope_dim, cos_sin, rope_dim, RopeLayout::kPair);
  if (cache.dtype == DType::kF32) {
    std::memcpy(target, entry, static_cast<size_t>(dim) * sizeof(float));
  } else {
    auto* out = reinterpret_cast<uint16_t*>(target);
    for (int32_t i = 0; i < dim; ++i) out[i] = f32_to_bf16(entry[i]);
  }
}

void check_cache(const LatentCache& cache, int32_t dim) {
  SLUICE_CHECK(dim <= kMaxDim && dim % kLanes == 0, "dim={}", dim);
  SLUICE_CHECK(cache.dtype == DType::kF32 || cache.dtype == DType::kBF16, "cache dtype {}", name(cache.dtype));
}

// Sixteen channels of an entry in the making.
struct Accumulator {
  F32x16 peak = broadcast(-std::numeric_limits<float>::infinity());
  F32x16 sum = zero();
  F32x16 mixed = zero();

  void add(F32x16 key, F32x16 gate) {
    const F32x16 top = max(peak, gate);
    const F32x16 kept = exp(peak - top), weight = exp(gate - top);  // first position: exp(-inf) = 0
    sum = fma(sum, kept, weight);
    mixed = fma(mixed, kept, weight * key);
    peak = top;
  }
  // [3][dim], at this panel.
  void load_from(const float* state, int64_t dim) {
    peak = load(state);
    sum = load(state + dim);
    mixed = load(state + 2 * dim);
  }
  void save_to(float* state, int64_t dim) const {
    store(state, peak);
    store(state + dim, sum);
    store(state + 2 * dim, mixed);
  }
};

struct Plan {
  const CompressArgs& args;
  int64_t* first_entry = nullptr;  // [spans + 1] of a span, among the complete blocks of all spans
  float* entries = nullptr;        // [complete blocks, dim] weighted sums

  std::byte* state(const SequenceSpan& span, int32_t position) const {
    return args.state + value(span.pages[position / kPageTokens]) * args.state_stride;
  }
  float* accumulator(const SequenceSpan& span, int32_t position, int64_t series, int64_t panel) const {
    return reinterpret_cast<float*>(state(span, position) + kStateHeader) + series * 3 * args.dim + panel * kLanes;
  }
};

int64_t num_complete(const CompressArgs& args, const SequenceSpan& span) {
  return span.position_end / args.cache.ratio - span.position_begin / args.cache.ratio;
}

Plan make_plan(const CompressArgs& args, OpContext& context) {
  Plan plan{.args = args};
  int64_t total = 0;
  for (const SequenceSpan& span : args.sequences) total += num_complete(args, span);
  const auto carve = [&](Carver carver) {
    plan.first_entry = carver.take<int64_t>(static_cast<int64_t>(args.sequences.size()) + 1);
    plan.entries = carver.take<float>(total * args.dim);
    return carver.bytes();
  };
  carve(Carver(context.scratch.reserve(carve(Carver()))));
  int64_t entry = 0;
  for (size_t i = 0; i < args.sequences.size(); ++i) {
    plan.first_entry[i] = entry;
    entry += num_complete(args, args.sequences[i]);
  }
  plan.first_entry[args.sequences.size()] = entry;
  return plan;
}

// Stage 1 for one span and 16 channels.
template <int SERIES>
void accumulate(const Plan& plan, size_t span_idx, int64_t panel) {
  const CompressArgs& args = plan.args;
  const SequenceSpan& span = args.sequences[span_idx];
  const int64_t width = int64_t{SERIES} * args.dim, channel = panel * kLanes;
  Accumulator making[SERIES];  // this entry, the next one
  if (span.position_begin > 0)
    for (int s = 0; s < SERIES; ++s)
      making[s].load_from(plan.accumulator(span, span.position_begin - 1, s, panel), args.dim);
  float* entry = plan.entries + plan.first_entry[span_idx] * args.dim + channel;
  for (int32_t t = span.position_begin; t < span.position_end; ++t) {
    const float* keys = args.z + (span.row_begin + t - span.position_begin) * 2 * width + channel;
    const float* gates = keys + width;
    const float* ape = args.ape + int64_t{t % args.cache.ratio} * width + channel;
    // One series makes this entry. Of two the first makes the next entry, the second this one.
    const int64_t own = SERIES == 2 ? args.dim : 0;
    making[0].add(load(keys + own), load(gates + own) + load(ape + own));
    if (SERIES == 2) making[SERIES - 1].add(load(keys), load(gates) + load(ape));
    if ((t + 1) % args.cache.ratio == 0) {
      store(entry, making[0].mixed / making[0].sum);
      entry += args.dim;
      making[0] = SERIES == 2 ? making[SERIES - 1] : Accumulator();
      making[SERIES - 1] = Accumulator();
    }
    if (t + 1 == span.position_end || (t + 1) % kPageTokens == 0)
      for (int s = 0; s < SERIES; ++s) making[s].save_to(plan.accumulator(span, t, s, panel), args.dim);
  }
}

// Which position the state in a page stands before; read and checked before stage 1, written behind it.
void check_states(const Plan& plan) {
  for (const SequenceSpan& span : plan.args.sequences) {
    if (span.position_begin == 0) continue;
    int32_t next = 0;
    std::memcpy(&next, plan.state(span, span.position_begin - 1), sizeof(next));
    SLUICE_CHECK(next == span.position_begin, "compressor state of position {}, wanted {}", next, span.position_begin);
  }
}

void label_states(const Plan& plan) {
  for (const SequenceSpan& span : plan.args.sequences) {
    for (int32_t t = span.position_begin; t < span.position_end;) {
      const int32_t next = std::min(span.position_end, (t / kPageTokens + 1) * kPageTokens);
      std::memcpy(plan.state(span, t), &next, sizeof(next));
      t = next;
    }
  }
}

// Stage 2.
void finish_entry(const Plan& plan, int64_t index) {
  const CompressArgs& args = plan.args;
  const int64_t* begin = plan.first_entry;
  const int64_t* end = begin + args.sequences.size() + 1;
  const auto span_idx = static_cast<size_t>(std::upper_bound(begin, end, index) - begin - 1);
  const SequenceSpan& span = args.sequences[span_idx];
  const auto entry = static_cast<int32_t>(span.position_begin / args.cache.ratio + index - plan.first_entry[span_idx]);
  const int64_t row = span.row_begin + int64_t{args.cache.ratio} * (entry + 1) - 1 - span.position_begin;
  store_entry(plan.entries + index * args.dim, args.norm_weight, args.eps, args.dim, args.cos_sin + row * args.rope_dim,
              args.rope_dim, args.cache.entries, entry_address(args.cache, span.pages, entry, args.dim));
}

}  // namespace

void window_write(const WindowWriteArgs& args, OpContext& context) {
  check_cache(args.cache, args.dim);
  for (const SequenceSpan& span : args.sequences) {
    context.team.parallel_for(span.position_end - span.position_begin, 16, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = span.row_begin + i;
        const auto position = static_cast<int32_t>(span.position_begin + i);
        store_entry(args.z + row * args.dim, args.norm_weight, args.eps, args.dim, args.cos_sin + row * args.rope_dim,
                    args.rope_dim, args.cache, entry_address(args.cache, span.pages, position, args.dim));
      }
    });
  }
}

void compress(const CompressArgs& args, OpContext& context) {
  check_cache(args.cache.entries, args.dim);
  SLUICE_CHECK(args.series == 1 || args.series == 2, "series={}", args.series);
  const Plan plan = make_plan(args, context);
  check_states(plan);
  const int64_t panels = args.dim / kLanes;
  const auto num_spans = static_cast<int64_t>(args.sequences.size());
  int64_t num_rows = 0;
  for (const SequenceSpan& span : args.sequences) num_rows += span.position_end - span.position_begin;
  if (num_rows == 0) return;
  const int64_t grain = std::max<int64_t>(1, kGrainUpdates * num_spans / (num_rows * args.series));
  context.team.parallel_for(num_spans * panels, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const auto span_idx = static_cast<size_t>(unit / panels);
      if (args.series == 2) {
        accumulate<2>(plan, span_idx, unit % panels);
      } else {
        accumulate<1>(plan, span_idx, unit % panels);
      }
    }
  });
  label_states(plan);
  context.team.parallel_for(plan.first_entry[num_spans], 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t index = begin; index < end; ++index) finish_entry(plan, index);
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
