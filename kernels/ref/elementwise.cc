// Embedding, RMSNorm, SiLU-mul, rotation: one row at a time, sums in double.
#include <cmath>

#include "kernels/ref/ref.h"

namespace sluice::ref {

void embed(const EmbedArgs& args, OpContext&) {
  const int64_t hidden = args.table.shape[1];
  for (size_t row = 0; row < args.tokens.size(); ++row)
    widen_to_f32(args.table, args.tokens[row] * hidden, hidden, args.x + static_cast<int64_t>(row) * hidden);
}

void rms_norm(const RmsNormArgs& args, OpContext&) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* x = args.x + (args.row_ids ? args.row_ids[row] : row) * args.x_stride;
    float* y = args.y + row * args.cols;
    double sum = 0;
    for (int64_t i = 0; i < args.cols; ++i) sum += double{x[i]} * x[i];
    const float factor = static_cast<float>(1 / std::sqrt(sum / static_cast<double>(args.cols) + args.eps));
    for (int64_t i = 0; i < args.cols; ++i) y[i] = args.weight ? args.weight[i] * (x[i] * factor) : x[i] * factor;
  }
}

void silu_mul(const SiluMulArgs& args, OpContext&) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* gate = args.gate_up + row * 2 * args.width;
    const float* up = gate + args.width;
    for (int64_t i = 0; i < args.width; ++i) {
      double z = gate[i], factor = up[i];
      if (args.limit > 0) {
        z = z > args.limit ? args.limit : z;  // written so that NaN stays
        factor = factor > args.limit ? args.limit : factor < -args.limit ? -args.limit : factor;
      }
      args.y[row * args.width + i] = static_cast<float>(z / (1 + std::exp(-z)) * factor);
    }
  }
}

void rope(const RopeArgs& args, OpContext&) {
  const int32_t half = args.dim / 2;
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* cosines = args.cos_sin + row * args.dim;
    const float* sines = cosines + half;
    for (int32_t head = 0; head < args.heads; ++head) {
      float* x = args.x + (row * args.heads + head) * args.head_dim + args.offset;
      for (int32_t i = 0; i < half; ++i) {
        const int32_t first = args.layout == RopeLayout::kPair ? 2 * i : i;
        const int32_t second = args.layout == RopeLayout::kPair ? 2 * i + 1 : i + half;
        const float a = x[first], b = x[second];
        x[first] = a * cosines[i] - b * sines[i];
        x[second] = b * cosines[i] + a * sines[i];
      }
    }
  }
}

}  // namespace sluice::ref
