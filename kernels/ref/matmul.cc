// y = x W^T with W row-major [outputs, inputs]; one fma chain per output in ascending k, which is also the definition
// of the bits for f32 and bf16 weights on every CPU path.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "sluice/quantize.h"

#include "kernels/ref/ref.h"

namespace sluice::ref {

bool supports(WeightFormat format) { return format != WeightFormat::kAuto; }

// Quantised rows: [cols] int8 codes, then [groups] f32 scales, then [groups] int32 zero points (0 where the format has
// none).
int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  if (!is_quantized(format)) return weight_bytes(format, rows, cols);
  return rows * (cols + cols / group_size(format, cols) * 8);
}

namespace {

struct QuantizedRow {
  int8_t* codes;   // [cols]
  float* scales;   // [groups]
  int32_t* zeros;  // [groups]
};

QuantizedRow quantized_row(const Weight& shape, const std::byte* packed, int64_t row) {
  const int64_t groups = shape.cols / group_size(shape.format, shape.cols);
  auto* base = const_cast<std::byte*>(packed) + row * (shape.cols + groups * 8);
  return {reinterpret_cast<int8_t*>(base), reinterpret_cast<float*>(base + shape.cols),
          reinterpret_cast<int32_t*>(base + shape.cols + groups * 4)};
}

void pack_quantized(const Weight& shape, int64_t row, const float* source, std::byte* packed) {
  const int32_t group = group_size(shape.format, shape.cols);
  const QuantizedRow target = quantized_row(shape, packed, row);
  for (int64_t k = 0; k < shape.cols; k += group) {
    const GroupGrid grid = quantize_group(shape.format, source + k, group, target.codes + k);
    target.scales[k / group] = grid.scale;
    target.zeros[k / group] = grid.zero;
  }
}

}  // namespace

void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  const int64_t begin = row_begin * shape.cols;
  const int64_t count = num_rows * shape.cols;
  if (is_quantized(shape.format)) {
    for (int64_t r = 0; r < num_rows; ++r) pack_quantized(shape, row_begin + r, source + r * shape.cols, packed);
    return;
  }
  if (shape.format == WeightFormat::kF32) {
    std::memcpy(packed + begin * 4, source, static_cast<size_t>(count) * 4);
    return;
  }
  SLUICE_CHECK(shape.format == WeightFormat::kBF16, "format={}", name(shape.format));
  auto* out = reinterpret_cast<uint16_t*>(packed) + begin;
  for (int64_t i = 0; i < count; ++i) out[i] = f32_to_bf16(source[i]);
}

float weight_at(const Weight& weight, int64_t row, int64_t col) {
  if (is_quantized(weight.format)) {
    const QuantizedRow source = quantized_row(weight, weight.data, row);
    const int64_t group = col / group_size(weight.format, weight.cols);
    return source.scales[group] * static_cast<float>(source.codes[col] - source.zeros[group]);
  }
  const int64_t index = row * weight.cols + col;
  if (weight.format == WeightFormat::kF32) return reinterpret_cast<const float*>(weight.data)[index];
  return bf16_to_f32(reinterpret_cast<const uint16_t*>(weight.data)[index]);
}

namespace {

// One output by the formula of sluice/quantize.h.
float quantized_dot(const float* x, const Weight& weight, int64_t row) {
  const int32_t group = group_size(weight.format, weight.cols);
  const QuantizedRow w = quantized_row(weight, weight.data, row);
  std::vector<int8_t> codes(static_cast<size_t>(group));
  float sum = 0;
  for (int64_t k = 0; k < weight.cols; k += group) {
    const float x_scale = quantize_activations(x + k, group, codes.data());
    int32_t dot = 0;
    for (int32_t i = 0; i < group; ++i)
      dot += (w.codes[k + i] - w.zeros[k / group]) * codes[static_cast<size_t>(i)];
    sum = std::fma(static_cast<float>(dot), w.scales[k / group] * x_scale, sum);
  }
  return sum;
}

void multiply_row(const float* x, const Weight& weight, float* y, bool add) {
  for (int64_t n = 0; n < weight.rows; ++n) {
    float sum = 0;
    if (is_quantized(weight.format)) {
      sum = quantized_dot(x, weight, n);
    } else {
      for (int64_t k = 0; k < weight.cols; ++k) sum = std::fma(x[k], weight_at(weight, n, k), sum);
    }
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
