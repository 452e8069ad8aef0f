// INT4 and INT8 weights against activations quantised on the fly; the formula is in sluice/quantize.h.
//
//   packed [rows, cols]:   panel of 16 outputs after panel, each
//
//     int4  per 8 inputs 64 bytes:  byte 4 n + i = code(n, k + i) + 8 | (code(n, k + 4 + i) + 8) << 4      i in [0, 4)
//     int8  per 4 inputs 64 bytes:  byte 4 n + i = code(n, k + i) + 128
//     then  per group 16 f16 scales
//
// Codes are stored unsigned, because the dot-product instruction takes one unsigned operand; the excess (8 or 128 times
// the sum of the activation codes) is subtracted by the accumulator's start value, for free.
#pragma once

#include <algorithm>
#include <cstring>

#include "sluice/ops.h"
#include "sluice/quantize.h"

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

struct PanelShape {
  int64_t cols;
  int32_t group;
  int32_t bits;

  explicit PanelShape(const Weight& weight)
      : cols(weight.cols), group(group_size(weight.format, weight.cols)), bits(code_bits(weight.format)) {}
  int64_t groups() const { return cols / group; }
  int64_t code_bytes() const { return cols * kLanes * bits / 8; }
  int64_t bytes() const { return (code_bytes() + groups() * kLanes * 2 + 63) / 64 * 64; }
};

// Rows of activations as the tile reads them; in scratch memory.
struct QuantizedRows {
  int64_t cols = 0;
  int32_t group = 0;
  int8_t* codes = nullptr;    // [rows, cols]
  float* scales = nullptr;    // [rows, groups]
  int32_t* starts = nullptr;  // [rows, groups]  -excess * sum of codes

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

// [NUM_ROWS] x [NUM_PANELS * 16] outputs; panels lie `shape.bytes()` apart.
template <int NUM_ROWS, int NUM_PANELS, int BITS, typename Store>
inline void multiply_quantized_tile(const QuantizedRowView* x, const PanelShape& shape, const std::byte* panels,
                                    Store&& store_result) {
  constexpr int kStep = BITS == 4 ? 8 : 4;  // inputs in 64 bytes
  const int64_t panel_bytes = shape.bytes();
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
    for (int64_t k = g * shape.group; k < (g + 1) * shape.group; k += kStep) {
      I32x16 codes[NUM_PANELS];
#pragma GCC unroll 8
      for (int p = 0; p < NUM_PANELS; ++p) codes[p] = load_bytes(panels + p * panel_bytes + k / kStep * 64);
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
      const auto* scales = reinterpret_cast<const uint16_t*>(panels + p * panel_bytes + shape.code_bytes());
      const F32x16 weight_scale = load_f16(scales + g * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < NUM_ROWS; ++r)
        acc[r][p] = fma(to_f32(dot[r][p]), weight_scale * broadcast(x[r].scales[g]), acc[r][p]);
    }
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
// One row streams 4 panels; memory is the limit there, not the number of chains.
constexpr int kQuantVectorPanels = 4;
#else
// 16 registers hold 2 x 1 pairs of accumulators.
constexpr int kQuantRows = 2;
constexpr int kQuantPanels = 1;
constexpr int kQuantVectorPanels = 1;
#endif

template <int NUM_PANELS, int BITS, typename Store>
inline void multiply_quantized_rows(int num_rows, const QuantizedRowView* x, const PanelShape& shape,
                                    const std::byte* panels, Store&& store_result) {
  switch (num_rows) {
    case 1:
      multiply_quantized_tile<1, NUM_PANELS, BITS>(x, shape, panels, store_result);
      return;
    case 2:
      multiply_quantized_tile<2, NUM_PANELS, BITS>(x, shape, panels, store_result);
      return;
#if defined(__AVX512F__)
    case 3:
      multiply_quantized_tile<3, NUM_PANELS, BITS>(x, shape, panels, store_result);
      return;
    case 4:
      multiply_quantized_tile<4, NUM_PANELS, BITS>(x, shape, panels, store_result);
      return;
    case 5:
      multiply_quantized_tile<5, NUM_PANELS, BITS>(x, shape, panels, store_result);
      return;
    case 6:
      multiply_quantized_tile<6, NUM_PANELS, BITS>(x, shape, panels, store_result);
      return;
#endif
    default:
      SLUICE_CHECK(false, "num_rows={} not in [1, {}]", num_rows, kQuantRows);
  }
}

// All of [num_rows] x [num_panels * 16]: row(r) -> QuantizedRowView, store_result(r, panel, F32x16). `panels` points at
// the first panel.
template <int BITS, typename Row, typename Store>
inline void multiply_quantized_block(int64_t num_rows, Row&& row, const PanelShape& shape, const std::byte* panels,
                                     int64_t num_panels, Store&& store_result) {
  for (int64_t r0 = 0; r0 < num_rows; r0 += kQuantRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kQuantRows, num_rows - r0));
    QuantizedRowView x[kQuantRows];
    for (int r = 0; r < rows; ++r) x[r] = row(r0 + r);
    int64_t panel = 0;
    const auto run = [&]<int NUM_PANELS>(std::integral_constant<int, NUM_PANELS>) {
      for (; panel + NUM_PANELS <= num_panels; panel += NUM_PANELS) {
        const std::byte* part = panels + panel * shape.bytes();
        const auto put = [&](int r, int p, F32x16 value) { store_result(r0 + r, panel + p, value); };
        if constexpr (NUM_PANELS > kQuantPanels) {
          multiply_quantized_tile<1, NUM_PANELS, BITS>(x, shape, part, put);
        } else {
          multiply_quantized_rows<NUM_PANELS, BITS>(rows, x, shape, part, put);
        }
      }
    };
    if (rows == 1) run(std::integral_constant<int, kQuantVectorPanels>{});
    if constexpr (kQuantPanels > 1) run(std::integral_constant<int, kQuantPanels>{});
    run(std::integral_constant<int, 1>{});
  }
}

int64_t quantized_packed_bytes(const Weight& shape);
void pack_quantized(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed);

// Bytes of scratch that quantize_rows needs.
size_t quantized_rows_bytes(const Weight& shape, int64_t rows);
// x [rows, x_stride] -> codes, scales, starts in `memory`; threads share the rows.
QuantizedRows quantize_rows(const Weight& shape, const float* x, int64_t rows, int64_t x_stride, std::byte* memory,
                            ThreadTeam& team);

}  // namespace sluice::cpu::SLUICE_ISA
