// Packing of quantised weights, and the quantisation of activations.
#include "kernels/cpu/quantized.h"

#include <cmath>

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int32_t kMaxGroup = 128;

// Values a thread should have to itself before another is worth waking (a few us of work).
constexpr int64_t kGrainValues = 1 << 15;

// Same rounding as quantize_activations (sluice/quantize.h), 16 at a time. Groups are multiples of 32.
void quantize_group(const float* x, int32_t group, int32_t excess, int8_t* codes, float* scale, int32_t* start) {
  F32x16 peaks = zero();
  for (int32_t i = 0; i < group; i += kLanes) peaks = max(peaks, max(load(x + i), zero() - load(x + i)));
  const float peak = reduce_max(peaks);
  const F32x16 inverse = broadcast(peak > 0 ? 127.0f / peak : 0.0f);
  *scale = peak > 0 ? peak / 127.0f : 0.0f;
  F32x16 sums = zero();  // exact: at most 128 codes of 7 bits
  for (int32_t i = 0; i < group; i += kLanes) {
    const F32x16 rounded = round_even(load(x + i) * inverse);
    store_codes(codes + i, rounded);
    sums = sums + rounded;
  }
  *start = -excess * static_cast<int32_t>(reduce_add(sums));
}

size_t padded(int64_t bytes) { return static_cast<size_t>((bytes + 63) / 64 * 64); }

}  // namespace

int64_t quantized_packed_bytes(const Weight& shape) { return QuantizedShape(shape).bytes(); }

void pack_quantized(const Weight& weight, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  const QuantizedShape shape(weight);
  const int32_t group = shape.group;
  const int64_t step_inputs = shape.step_inputs();
  int8_t codes[kMaxGroup];
  for (int64_t r = 0; r < (num_rows + kLanes - 1) / kLanes * kLanes; ++r) {
    const int64_t panel = (row_begin + r) / kLanes, lane = (row_begin + r) % kLanes;
    const int64_t first = panel / kBlockPanels * kBlockPanels;
    const int64_t width = std::min<int64_t>(kBlockPanels, shape.num_panels() - first);
    std::byte* block = packed + first / kBlockPanels * shape.block_bytes(kBlockPanels);
    for (int64_t g = 0; g < shape.groups(); ++g) {
      GroupGrid grid;
      if (r < num_rows) {
        grid = sluice::quantize_group(weight.format, source + r * shape.cols + g * group, group, codes);
      } else {
        std::fill_n(codes, group, int8_t{0});  // rows that pad the last panel
      }
      auto* bytes = reinterpret_cast<uint8_t*>(block + g * shape.group_bytes(width) + (panel - first) * 64 + lane * 4);
      auto* scales = reinterpret_cast<uint16_t*>(block + g * shape.group_bytes(width) + shape.code_bytes(width));
      scales[(panel - first) * kLanes + lane] = f32_to_f16(grid.scale);
      if (shape.zero_points)
        reinterpret_cast<uint8_t*>(scales + width * kLanes)[(panel - first) * kLanes + lane] =
            static_cast<uint8_t>(8 + grid.zero);
      for (int32_t i = 0; i < group; ++i) {
        uint8_t& byte = bytes[i / step_inputs * width * 64 + i % 4];
        if (shape.bits == 8) {
          byte = static_cast<uint8_t>(codes[i] + 128);
        } else {
          const auto nibble = static_cast<uint8_t>(codes[i] + 8);
          byte = i % 8 < 4 ? nibble : static_cast<uint8_t>(byte | nibble << 4);
        }
      }
    }
  }
}

size_t quantized_rows_bytes(const Weight& shape, int64_t rows) {
  const QuantizedShape panel_shape(shape);
  return padded(rows * shape.cols) + 2 * padded(rows * panel_shape.groups() * 4);
}

QuantizedRows place_rows(const Weight& weight, int64_t rows, std::byte* memory) {
  const QuantizedShape shape(weight);
  QuantizedRows result{.cols = shape.cols, .group = shape.group};
  result.codes = reinterpret_cast<int8_t*>(memory);
  memory += padded(rows * shape.cols);
  result.scales = reinterpret_cast<float*>(memory);
  memory += padded(rows * shape.groups() * 4);
  result.starts = reinterpret_cast<int32_t*>(memory);
  return result;
}

void quantize_row(const float* x, int32_t excess, const QuantizedRows& rows, int64_t row) {
  for (int64_t g = 0; g < rows.groups(); ++g)
    quantize_group(x + g * rows.group, rows.group, excess, rows.codes + row * rows.cols + g * rows.group,
                   rows.scales + row * rows.groups() + g, rows.starts + row * rows.groups() + g);
}

QuantizedRows quantize_rows(const Weight& weight, const float* x, int64_t rows, int64_t x_stride, std::byte* memory,
                            ThreadTeam& team) {
  const QuantizedRows result = place_rows(weight, rows, memory);
  const int32_t excess = QuantizedShape(weight).excess();
  team.parallel_for(rows, std::max<int64_t>(1, kGrainValues / weight.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) quantize_row(x + row * x_stride, excess, result, row);
  });
  return result;
}

}  // namespace sluice::cpu::SLUICE_ISA
