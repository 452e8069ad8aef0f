// INT4 and INT8 weights against activations quantised on the fly; the formula is in sluice/quantize.h.
//
//   packed [rows, cols]:  block after block of 4 panels (64 outputs; the last block may have fewer panels), each
//
//     group 0 | group 1 | ...                  one stream of memory in the order in which a single row reads it
//     a group:  step after step, each          [panel 0: 64 bytes] [panel 1] [panel 2] [panel 3]
//               then the scales                [panel 0: 16 f16  ] [panel 1] [panel 2] [panel 3]
//               then, in formats with suffix z [panel 0: 16 bytes 8 + zero point] ...              padded to 64 bytes
//
//     int4  a step is 8 inputs:  byte 4 n + i = code(n, k + i) + 8 | (code(n, k + 4 + i) + 8) << 4      i in [0, 4)
//     int8  a step is 4 inputs:  byte 4 n + i = code(n, k + i) + 128
//
// Codes are stored unsigned, because the dot-product instruction takes one unsigned operand; the excess (8 or 128 times
// the sum of the activation codes) is subtracted by the accumulator's start value, for free. With zero points the
// excess is the output's own, 8 + zero, and the start value a product of the two.
#pragma once

#include <algorithm>
#include <cstring>

#include "sluice/ops.h"
#include "sluice/quantize.h"

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

constexpr int32_t kBlockPanels = 4;

struct QuantizedShape {
  int64_t rows, cols;
  int32_t group;
  int32_t bits;
  bool zero_points;

  explicit QuantizedShape(const Weight& weight)
      : rows(weight.rows),
        cols(weight.cols),
        group(group_size(weight.format, weight.cols)),
        bits(code_bits(weight.format)),
        zero_points(has_zero_points(weight.format)) {}
  // What `starts` of activations are multiples of: the excess of the codes, or 1 where each output has its own.
  int32_t excess() const { return zero_points ? 1 : bits == 4 ? 8 : 128; }
  int64_t groups() const { return cols / group; }
  int64_t num_panels() const { return (rows + kLanes - 1) / kLanes; }
  int64_t step_inputs() const { return 32 / bits; }
  // Bytes of one group of a block of `panels` panels: its codes, then its scales.
  int64_t code_bytes(int64_t panels) const { return group / step_inputs() * panels * 64; }
  int64_t group_bytes(int64_t panels) const {
    return code_bytes(panels) + (panels * kLanes * (zero_points ? 3 : 2) + 63) / 64 * 64;
  }
  int64_t block_bytes(int64_t panels) const { return groups() * group_bytes(panels); }
  int64_t bytes() const {
    return num_panels() / kBlockPanels * block_bytes(kBlockPanels) + block_bytes(num_panels() % kBlockPanels);
  }
};

// A single row streams its weights; what lies so far ahead is asked for. Zen 4's own prefetching keeps up without (nothing
// beyond noise); where memory is further away (Sapphire Rapids under a hypervisor) a token of lite takes 89 ms for 101.
// Into L2: L1 was no better; every second line, or 1 KiB ahead, worse.
constexpr int64_t kStreamAhead = 4096;  // bytes

// Panels [panel, panel + n) of one block.
struct BlockPanels {
  const std::byte* block;  // the block's first byte
  int64_t width;           // panels of the block
  int64_t panel;           // within the block
};

// Rows of activations as the tile reads them; in scratch memory.
struct QuantizedRows {
  int64_t cols = 0;
  int32_t group = 0;
  int8_t* codes = nullptr;    // [rows, cols]
  float* scales = nullptr;    // [rows, groups]
  int32_t* starts = nullptr;  // [rows, groups]  -excess() * sum of codes

  int64_t groups() const { return cols / group; }
};

struct QuantizedRowView {
  const int8_t* codes;
  const float* scales;
  const int32_t* starts;
};

inline QuantizedRowView row_view(const QuantizedRows& rows, int64_t row) {
  return {rows.codes + row * rows.cols, rows.scales + row * rows.groups(), rows.starts + row * rows.groups()};
}

inline I32x16 broadcast_codes(const int8_t* codes) {
  int32_t four;
  std::memcpy(&four, codes, sizeof(four));
  return broadcast_i32(four);
}

// [NUM_ROWS] x [NUM_PANELS * 16] outputs.
template <int NUM_ROWS, int NUM_PANELS, int BITS, typename Store>
inline void multiply_quantized_tile(const QuantizedRowView* x, const QuantizedShape& shape, BlockPanels at,
                                    Store&& store_result) {
  constexpr int kStep = BITS == 4 ? 8 : 4;  // inputs in 64 bytes
  const int64_t step_bytes = at.width * 64;
  const std::byte* step = at.block + at.panel * 64;
  const int64_t scale_bytes = shape.group_bytes(at.width) - shape.code_bytes(at.width);
  const int64_t to_scales = at.panel * kLanes * 2 - at.panel * 64;
  F32x16 acc[NUM_ROWS][NUM_PANELS];
#pragma GCC unroll 8
  for (int r = 0; r < NUM_ROWS; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < NUM_PANELS; ++p) acc[r][p] = zero();
  for (int64_t g = 0; g < shape.groups(); ++g) {
    I32x16 dot[NUM_ROWS][NUM_PANELS];
#pragma GCC unroll 8
    for (int r = 0; r < NUM_ROWS; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < NUM_PANELS; ++p) dot[r][p] = broadcast_i32(x[r].starts[g]);
    if (shape.zero_points) {
      const std::byte* zeros = step - at.panel * 64 + shape.code_bytes(at.width) + at.width * kLanes * 2;
#pragma GCC unroll 8
      for (int p = 0; p < NUM_PANELS; ++p) {
        const I32x16 excess = load_u8(zeros + (at.panel + p) * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < NUM_ROWS; ++r) dot[r][p] = dot[r][p] * excess;
      }
    }
    for (int64_t k = g * shape.group; k < (g + 1) * shape.group; k += kStep, step += step_bytes) {
      I32x16 codes[NUM_PANELS];
#pragma GCC unroll 8
      for (int p = 0; p < NUM_PANELS; ++p) {
        codes[p] = load_bytes(step + p * 64);
        if constexpr (NUM_ROWS == 1 && NUM_PANELS == kBlockPanels)
          _mm_prefetch(reinterpret_cast<const char*>(step) + p * 64 + kStreamAhead, _MM_HINT_T1);
      }
      if constexpr (BITS == 4) {
#pragma GCC unroll 8
        for (int r = 0; r < NUM_ROWS; ++r) {
          const I32x16 first = broadcast_codes(x[r].codes + k);
#pragma GCC unroll 8
          for (int p = 0; p < NUM_PANELS; ++p) dot[r][p] = dot4(dot[r][p], low_nibbles(codes[p]), first);
        }
#pragma GCC unroll 8
        for (int r = 0; r < NUM_ROWS; ++r) {
          const I32x16 second = broadcast_codes(x[r].codes + k + 4);
#pragma GCC unroll 8
          for (int p = 0; p < NUM_PANELS; ++p) dot[r][p] = dot4(dot[r][p], high_nibbles(codes[p]), second);
        }
      } else {
#pragma GCC unroll 8
        for (int r = 0; r < NUM_ROWS; ++r) {
          const I32x16 four = broadcast_codes(x[r].codes + k);
#pragma GCC unroll 8
          for (int p = 0; p < NUM_PANELS; ++p) dot[r][p] = dot4(dot[r][p], codes[p], four);
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < NUM_PANELS; ++p) {
      const F32x16 weight_scale = load_f16(reinterpret_cast<const uint16_t*>(step + to_scales) + p * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < NUM_ROWS; ++r)
        acc[r][p] = fma(to_f32(dot[r][p]), weight_scale * broadcast(x[r].scales[g]), acc[r][p]);
    }
    step += scale_bytes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < NUM_ROWS; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < NUM_PANELS; ++p) store_result(r, p, acc[r][p]);
}

#if defined(__AVX512F__)
// 6 x 2 integer and as many f32 accumulators, 2 panels of codes and their halves, of 32 registers.
constexpr int kQuantRows = 6;
constexpr int kQuantPanels = 2;
// Few rows (decode, and most experts of a prompt chunk) take a block's 4 panels at once, so that memory is read in one
// stream: 4 x 4 integer accumulators; the f32 ones are used once a group and may wait in the stack's cache lines.
// 2 panels at a time read half of each 256 bytes and came back for the rest: twice the time at 4 rows, 1.35x at 6,
// equal at 16; at 64 the 6 x 2 tile is 8 % ahead.
constexpr int kQuantVectorPanels = 4;
constexpr int kQuantVectorRows = 4;
constexpr int kQuantFewRows = 16;
#else
// 16 registers hold 2 x 1 pairs of accumulators.
constexpr int kQuantRows = 2;
constexpr int kQuantPanels = 1;
constexpr int kQuantVectorPanels = 1;
constexpr int kQuantVectorRows = 1;
constexpr int kQuantFewRows = 1;
#endif

// [1, kQuantVectorRows] rows of many panels.
template <int NUM_PANELS, int BITS, typename Store>
inline void multiply_quantized_few(int num_rows, const QuantizedRowView* x, const QuantizedShape& shape, BlockPanels at,
                                   Store&& store_result) {
  if (num_rows == 1) return multiply_quantized_tile<1, NUM_PANELS, BITS>(x, shape, at, store_result);
  if (num_rows == 2) return multiply_quantized_tile<2, NUM_PANELS, BITS>(x, shape, at, store_result);
  if (num_rows == 3) return multiply_quantized_tile<3, NUM_PANELS, BITS>(x, shape, at, store_result);
  multiply_quantized_tile<4, NUM_PANELS, BITS>(x, shape, at, store_result);
}

template <int NUM_PANELS, int BITS, typename Store>
inline void multiply_quantized_rows(int num_rows, const QuantizedRowView* x, const QuantizedShape& shape,
                                    BlockPanels at, Store&& store_result) {
  switch (num_rows) {
    case 1:
      multiply_quantized_tile<1, NUM_PANELS, BITS>(x, shape, at, store_result);
      return;
    case 2:
      multiply_quantized_tile<2, NUM_PANELS, BITS>(x, shape, at, store_result);
      return;
#if defined(__AVX512F__)
    case 3:
      multiply_quantized_tile<3, NUM_PANELS, BITS>(x, shape, at, store_result);
      return;
    case 4:
      multiply_quantized_tile<4, NUM_PANELS, BITS>(x, shape, at, store_result);
      return;
    case 5:
      multiply_quantized_tile<5, NUM_PANELS, BITS>(x, shape, at, store_result);
      return;
    case 6:
      multiply_quantized_tile<6, NUM_PANELS, BITS>(x, shape, at, store_result);
      return;
#endif
    default:
      SLUICE_CHECK(false, "num_rows={} not in [1, {}]", num_rows, kQuantRows);
  }
}

// [num_rows] x panels [panel_begin, panel_end) of the weight: row(r) -> QuantizedRowView, store_result(r, panel,
// F32x16) with panels counted from panel_begin, which begins a block.
template <int BITS, typename Row, typename Store>
inline void multiply_quantized_block(int64_t num_rows, Row&& row, const QuantizedShape& shape, const std::byte* data,
                                     int64_t panel_begin, int64_t panel_end, Store&& store_result) {
  const int64_t pass = num_rows <= kQuantFewRows ? kQuantVectorRows : kQuantRows;
  for (int64_t first = panel_begin; first < panel_end; first += kBlockPanels) {
    const int64_t width = std::min<int64_t>(kBlockPanels, panel_end - first);
    const std::byte* block = data + first / kBlockPanels * shape.block_bytes(kBlockPanels);
    for (int64_t r0 = 0; r0 < num_rows; r0 += pass) {
      const int rows = static_cast<int>(std::min<int64_t>(pass, num_rows - r0));
      QuantizedRowView x[kQuantRows];
      for (int r = 0; r < rows; ++r) x[r] = row(r0 + r);
      int64_t panel = 0;
      const auto run = [&]<int NUM_PANELS>(std::integral_constant<int, NUM_PANELS>) {
        for (; panel + NUM_PANELS <= width; panel += NUM_PANELS) {
          const auto put = [&](int r, int p, F32x16 value) {
            store_result(r0 + r, first - panel_begin + panel + p, value);
          };
          if constexpr (NUM_PANELS > kQuantPanels) {
            multiply_quantized_few<NUM_PANELS, BITS>(rows, x, shape, {block, width, panel}, put);
          } else {
            multiply_quantized_rows<NUM_PANELS, BITS>(rows, x, shape, {block, width, panel}, put);
          }
        }
      };
      if (rows <= kQuantVectorRows) run(std::integral_constant<int, kQuantVectorPanels>{});
      if constexpr (kQuantPanels > 1) run(std::integral_constant<int, kQuantPanels>{});
      run(std::integral_constant<int, 1>{});
    }
  }
}

int64_t quantized_packed_bytes(const Weight& shape);
void pack_quantized(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed);

// Bytes of memory that `rows` quantised rows take.
size_t quantized_rows_bytes(const Weight& shape, int64_t rows);
// The rows' places in `memory`, still empty.
QuantizedRows place_rows(const Weight& shape, int64_t rows, std::byte* memory);
// x [cols] -> codes, scales and starts of one row.
void quantize_row(const float* x, int32_t excess, const QuantizedRows& rows, int64_t row);
// x [rows, x_stride] -> codes, scales, starts in `memory`; threads share the rows.
QuantizedRows quantize_rows(const Weight& shape, const float* x, int64_t rows, int64_t x_stride, std::byte* memory,
                            ThreadTeam& team);

}  // namespace sluice::cpu::SLUICE_ISA
