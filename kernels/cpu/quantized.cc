// Packing of quantised weights, and the quantisation of activations.
#include "kernels/cpu/quantized.h"

#include <cmath>
#include <vector>

namespace sluice::cpu::SLUICE_ISA {

namespace {

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

// What a step keeps of one row's codes (quantized.h): 4 plus 128, or 8 plus 8, the second four in the upper nibbles.
// Adding the half of the range is flipping its highest bit.
uint32_t excess_bytes(const int8_t* codes) {
  uint32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return four ^ 0x80808080;
}
uint32_t excess_nibbles(const int8_t* codes) {
  uint32_t halves[2];
  std::memcpy(halves, codes, sizeof(halves));
  const auto nibbles = [](uint32_t four) { return (four & 0x0f0f0f0f) ^ 0x08080808; };
  return nibbles(halves[0]) | nibbles(halves[1]) << 4;
}

size_t padded(int64_t bytes) { return static_cast<size_t>((bytes + 63) / 64 * 64); }

}  // namespace

int64_t quantized_packed_bytes(const Weight& shape) { return QuantizedShape(shape).bytes(); }

void pack_quantized(const Weight& weight, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  const QuantizedShape shape(weight);
  const int64_t step_inputs = shape.step_inputs();
  // A panel at a time: 16 rows are a whole number of times the 16 groups that are searched at once.
  std::vector<int8_t> codes(static_cast<size_t>(kLanes * shape.cols));
  std::vector<GroupGrid> grids(static_cast<size_t>(kLanes * shape.groups()));
  for (int64_t r = 0; r < (num_rows + kLanes - 1) / kLanes * kLanes; ++r) {
    const int64_t panel = (row_begin + r) / kLanes, lane = r % kLanes;
    if (lane == 0) {
      const int64_t rows = std::min<int64_t>(kLanes, num_rows - r);
      quantize_groups(weight.format, source + r * shape.cols, shape.group, rows * shape.groups(), codes.data(),
                      grids.data());
      // Rows that pad the last panel.
      std::fill(codes.begin() + rows * shape.cols, codes.end(), int8_t{0});
      std::fill(grids.begin() + rows * shape.groups(), grids.end(), GroupGrid{});
    }
    const int64_t first = panel / kBlockPanels * kBlockPanels;
    const int64_t width = std::min<int64_t>(kBlockPanels, shape.num_panels() - first);
    std::byte* block = packed + first / kBlockPanels * shape.block_bytes(kBlockPanels);
    for (int64_t g = 0; g < shape.groups(); ++g) {
      const GroupGrid& grid = grids[static_cast<size_t>(lane * shape.groups() + g)];
      const int8_t* from = codes.data() + lane * shape.cols + g * shape.group;
      std::byte* into = block + g * shape.group_bytes(width) + (panel - first) * 64 + lane * 4;
      auto* scales = reinterpret_cast<uint16_t*>(block + g * shape.group_bytes(width) + shape.code_bytes(width));
      scales[(panel - first) * kLanes + lane] = f32_to_f16(grid.scale);
      if (shape.zero_points)
        reinterpret_cast<uint8_t*>(scales + width * kLanes)[(panel - first) * kLanes + lane] =
            static_cast<uint8_t>(8 + grid.zero);
      for (int64_t i = 0; i < shape.group; i += step_inputs, into += width * 64) {
        const uint32_t four = shape.bits == 8 ? excess_bytes(from + i) : excess_nibbles(from + i);
        std::memcpy(into, &four, sizeof(four));
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
