// y = x W^T with W row-major [outputs, inputs]; one fma chain per output in ascending k, which is also the definition
// of the bits for f32 and bf16 weights on every CPU path.
#include <cmath>
#include <cstring>

#include "kernels/ref/ref.h"

namespace sluice::ref {

bool supports(WeightFormat format) {
  return format == WeightFormat::kF32 || format == WeightFormat::kBF16;
}

int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  return weight_bytes(format, rows, cols);
}

void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  const int64_t begin = row_begin * shape.cols;
  const int64_t count = num_rows * shape.cols;
  if (shape.format == WeightFormat::kF32) {
    std::memcpy(packed + begin * 4, source, static_cast<size_t>(count) * 4);
    return;
  }
  SLUICE_CHECK(shape.format == WeightFormat::kBF16, "format={}", name(shape.format));
  auto* out = reinterpret_cast<uint16_t*>(packed) + begin;
  for (int64_t i = 0; i < count; ++i) out[i] = f32_to_bf16(source[i]);
}

float weight_at(const Weight& weight, int64_t row, int64_t col) {
  const int64_t index = row * weight.cols + col;
  if (weight.format == WeightFormat::kF32) return reinterpret_cast<const float*>(weight.data)[index];
  return bf16_to_f32(reinterpret_cast<const uint16_t*>(weight.data)[index]);
}

namespace {

void multiply_row(const float* x, const Weight& weight, float* y, bool add) {
  for (int64_t n = 0; n < weight.rows; ++n) {
    float sum = 0;
    for (int64_t k = 0; k < weight.cols; ++k) sum = std::fma(x[k], weight_at(weight, n, k), sum);
    y[n] = add ? y[n] + sum : sum;
  }
}

}  // namespace

void matmul(const MatmulArgs& args, OpContext&) {
  for (int64_t row = 0; row < args.rows; ++row)
    multiply_row(args.x + row * args.x_stride, args.weight, args.y + row * args.y_stride, args.add);
}

void grouped_matmul(const GroupedMatmulArgs& args, OpContext&) {
  for (size_t expert = 0; expert < args.weights.size(); ++expert) {
    for (int32_t row = args.offsets[expert]; row < args.offsets[expert + 1]; ++row) {
      const int64_t source = args.row_ids ? args.row_ids[row] : row;
      multiply_row(args.x + source * args.x_stride, args.weights[expert], args.y + row * args.y_stride, false);
    }
  }
}

}  // namespace sluice::ref
