// Embedding, RMSNorm, SiLU-mul, rotation. A row belongs to one thread; lanes run along the row.
#include "kernels/cpu/elementwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/backend.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

// Values a thread should have to itself before another is worth waking (a few us of work).
constexpr int64_t kGrainValues = 1 << 14;

int64_t row_grain(int64_t values_per_row) {
  return std::max<int64_t>(1, kGrainValues / std::max<int64_t>(1, values_per_row));
}

}  // namespace

void embed(const EmbedArgs& args, OpContext& context) {
  const int64_t hidden = args.table.shape[1];
  context.team.parallel_for(
      static_cast<int64_t>(args.tokens.size()), row_grain(hidden), [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row)
          widen_to_f32(args.table, args.tokens[static_cast<size_t>(row)] * hidden, hidden, args.x + row * hidden);
      });
}

void rms_norm_row(const float* x, const float* weight, float eps, int64_t cols, float* y) {
  F32x16 sum = zero();
  int64_t i = 0;
  for (; i + kLanes <= cols; i += kLanes) sum = fma(load(x + i), load(x + i), sum);
  if (i < cols) sum = fma(load_first(x + i, cols - i), load_first(x + i, cols - i), sum);
  const F32x16 factor = broadcast(1.0f / std::sqrt(reduce_add(sum) / static_cast<float>(cols) + eps));
  if (weight == nullptr) {
    for (i = 0; i < cols; i += kLanes) {
      const int64_t lanes = std::min<int64_t>(kLanes, cols - i);
      store_first(y + i, load_first(x + i, lanes) * factor, lanes);
    }
    return;
  }
  for (i = 0; i + kLanes <= cols; i += kLanes) store(y + i, load(weight + i) * (load(x + i) * factor));
  if (i < cols) store_first(y + i, load_first(weight + i, cols - i) * (load_first(x + i, cols - i) * factor), cols - i);
}

void rms_norm(const RmsNormArgs& args, OpContext& context) {
  context.team.parallel_for(args.rows, row_grain(args.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row)
      rms_norm_row(args.x + (args.row_ids ? args.row_ids[row] : row) * args.x_stride, args.weight, args.eps, args.cols,
                   args.y + row * args.cols);
  });
}

void silu_mul(const SiluMulArgs& args, OpContext& context) {
  const F32x16 one = broadcast(1.0f);
  const F32x16 limit = broadcast(args.limit > 0 ? args.limit : std::numeric_limits<float>::infinity());
  const auto silu = [&](F32x16 gate, F32x16 up) {
    gate = min(limit, gate);  // the value second, as in exp(): NaN stays
    up = max(zero() - limit, min(limit, up));
    return gate / (one + exp(zero() - gate)) * up;
  };
  context.team.parallel_for(args.rows, row_grain(4 * args.width), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* gate = args.gate_up + row * 2 * args.width;
      const float* up = gate + args.width;
      float* y = args.y + row * args.width;
      int64_t i = 0;
      for (; i + kLanes <= args.width; i += kLanes) store(y + i, silu(load(gate + i), load(up + i)));
      if (const int64_t left = args.width - i; left > 0)
        store_first(y + i, silu(load_first(gate + i, left), load_first(up + i, left)), left);
    }
  });
}

void rotate(float* x, const float* cos_sin, int32_t dim, RopeLayout layout) {
  const int32_t half = dim / 2;
  const float* cosines = cos_sin;
  const float* sines = cos_sin + half;
  const int32_t step = layout == RopeLayout::kPair ? 2 : 1;
  const int32_t partner = layout == RopeLayout::kPair ? 1 : half;
  for (int32_t i = 0; i < half; ++i) {
    const float a = x[i * step], b = x[i * step + partner];
    x[i * step] = a * cosines[i] - b * sines[i];
    x[i * step + partner] = b * cosines[i] + a * sines[i];
  }
}

void rope(const RopeArgs& args, OpContext& context) {
  context.team.parallel_for(args.rows, row_grain(int64_t{4} * args.heads * args.dim),
                            [&](int64_t begin, int64_t end, int) {
                              for (int64_t row = begin; row < end; ++row)
                                for (int32_t head = 0; head < args.heads; ++head)
                                  rotate(args.x + (row * args.heads + head) * args.head_dim + args.offset,
                                         args.cos_sin + row * args.dim, args.dim, args.layout);
                            });
}

}  // namespace sluice::cpu::SLUICE_ISA
