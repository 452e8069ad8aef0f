// DeepSeek-V4's cache entries: the window's vectors, and blocks of positions that become one entry. The running softmax
// is kept in f32 between positions, as the product path keeps it; norms and angles in double.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/ref/compressed_cache.h"
#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

// entry[dim] -> normalised, the last rope_dim rotated (pairs), stored.
void store_entry(std::vector<float> entry, const float* norm_weight, float eps, const float* cos_sin, int32_t rope_dim,
                 DType dtype, std::byte* target, OpContext& context) {
  const auto dim = static_cast<int32_t>(entry.size());
  rms_norm({.x = entry.data(),
            .weight = norm_weight,
            .y = entry.data(),
            .rows = 1,
            .cols = dim,
            .x_stride = dim,
            .eps = eps},
           context);
  rope({.x = entry.data(),
        .cos_sin = cos_sin,
        .rows = 1,
        .heads = 1,
        .head_dim = dim,
        .offset = dim - rope_dim,
        .dim = rope_dim,
        .layout = RopeLayout::kPair},
       context);
  for (int32_t i = 0; i < dim; ++i) store(target, dtype, i, entry[static_cast<size_t>(i)]);
}

// One entry in the making: [3][dim], per channel the largest gate so far, the sum of weights, the weighted sum of keys.
struct Accumulator {
  explicit Accumulator(size_t dim)
      : peak(dim, -std::numeric_limits<float>::infinity()), sum(dim, 0.0f), mixed(dim, 0.0f) {}

  void add(const float* keys, const float* gates, const float* ape) {
    for (size_t i = 0; i < peak.size(); ++i) {
      const double gate = gates[i] + ape[i];
      const double top = std::max(double{peak[i]}, gate);
      const double kept = std::exp(peak[i] - top), weight = std::exp(gate - top);
      sum[i] = static_cast<float>(sum[i] * kept + weight);
      mixed[i] = static_cast<float>(mixed[i] * kept + weight * keys[i]);
      peak[i] = static_cast<float>(top);
    }
  }
  void load(const float* from) {
    for (std::vector<float>* part : {&peak, &sum, &mixed}) {
      std::copy_n(from, part->size(), part->begin());
      from += part->size();
    }
  }
  void save(float* to) const {
    for (const std::vector<float>* part : {&peak, &sum, &mixed}) to = std::copy(part->begin(), part->end(), to);
  }

  std::vector<float> peak, sum, mixed;  // [dim]
};

}  // namespace

void window_write(const WindowWriteArgs& args, OpContext& context) {
  for (const SequenceSpan& span : args.sequences) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      const int64_t row = span.row_begin + position - span.position_begin;
      const float* z = args.z + row * args.dim;
      store_entry({z, z + args.dim}, args.norm_weight, args.eps, args.cos_sin + row * args.rope_dim, args.rope_dim,
                  args.cache.dtype, entry_of(args.cache, span.pages, position, args.dim), context);
    }
  }
}

void compress(const CompressArgs& args, OpContext& context) {
  const auto dim = static_cast<size_t>(args.dim);
  const auto state_of = [&](const SequenceSpan& span, int32_t position) {
    return args.state + value(span.pages[position / kPageTokens]) * args.state_stride;
  };
  for (const SequenceSpan& span : args.sequences) {
    std::vector<Accumulator> making(static_cast<size_t>(args.series), Accumulator(dim));  // this entry, the next one
    if (span.position_begin > 0) {
      const std::byte* state = state_of(span, span.position_begin - 1);
      int32_t next = 0;
      std::memcpy(&next, state, sizeof(next));
      SLUICE_CHECK(next == span.position_begin, "compressor state of position {}, wanted {}", next,
                   span.position_begin);
      for (size_t s = 0; s < making.size(); ++s)
        making[s].load(reinterpret_cast<const float*>(state + kStateHeader) + s * 3 * dim);
    }
    for (int32_t t = span.position_begin; t < span.position_end; ++t) {
      const int64_t row = span.row_begin + t - span.position_begin;
      const float* keys = args.z + row * 2 * args.series * args.dim;
      const float* gates = keys + args.series * args.dim;
      const float* ape = args.ape + int64_t{t % args.cache.ratio} * args.series * args.dim;
      // One series: it makes this entry. Two: the first makes the next entry, the second this one.
      const size_t own = args.series == 2 ? dim : 0;
      making[0].add(keys + own, gates + own, ape + own);
      if (args.series == 2) making[1].add(keys, gates, ape);
      if ((t + 1) % args.cache.ratio == 0) {
        std::vector<float> entry(dim);
        for (size_t i = 0; i < dim; ++i) entry[i] = making[0].mixed[i] / making[0].sum[i];
        store_entry(entry, args.norm_weight, args.eps, args.cos_sin + row * args.rope_dim, args.rope_dim,
                    args.cache.entries.dtype, entry_of(args.cache, span.pages, t / args.cache.ratio, args.dim),
                    context);
        making.erase(making.begin());
        making.emplace_back(dim);
      }
      if (t + 1 == span.position_end || (t + 1) % kPageTokens == 0) {
        std::byte* state = state_of(span, t);
        const int32_t next = t + 1;
        std::memcpy(state, &next, sizeof(next));
        for (size_t s = 0; s < making.size(); ++s)
          making[s].save(reinterpret_cast<float*>(state + kStateHeader) + s * 3 * dim);
      }
    }
  }
}

}  // namespace sluice::ref
