// Packed weights and the products over them; shared by matmul.cc and the attention files.
//
//   packed [rows, cols]:  panel 0 = rows [0, 16), panel 1 = rows [16, 32), ...   the last one padded with zeros
//   a panel:              f32 [cols][16], bf16 [cols / 2][16][2]: for each input the weights of its 16 outputs, in the
//                         order that decode streams them
#pragma once

#include "sluice/check.h"
#include "sluice/ops.h"

#include "kernels/cpu/pair_tile.h"
#include "kernels/cpu/quantized.h"
#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

inline int64_t num_panels(const Weight& weight) { return (weight.rows + kLanes - 1) / kLanes; }

// Elements of a bf16 panel: an odd last input is paired with zeros.
inline int64_t pair_panel_elements(int64_t cols) { return (cols + 1) / 2 * kPairElements; }

// Calls body(TileWeights<T>) with the weight's element type, starting at panel `panel_begin`.
template <typename Body>
inline void with_panels(const Weight& weight, int64_t panel_begin, Body&& body) {
  if (weight.format == WeightFormat::kF32) {
    const int64_t stride = weight.cols * kLanes;
    body(TileWeights<float>{reinterpret_cast<const float*>(weight.data) + panel_begin * stride, stride, kLanes});
  } else {
    SLUICE_DCHECK(weight.format == WeightFormat::kBF16, "format={}", name(weight.format));
    const int64_t stride = pair_panel_elements(weight.cols);
    body(TileWeights<uint16_t>{reinterpret_cast<const uint16_t*>(weight.data) + panel_begin * stride, stride,
                               kPairElements});
  }
}

// The panels of a bf16 weight, for products of bf16 by bf16.
inline PairWeights pair_panels(const Weight& weight) {
  SLUICE_CHECK(weight.format == WeightFormat::kBF16, "format={}", name(weight.format));
  return {reinterpret_cast<const uint16_t*>(weight.data), pair_panel_elements(weight.cols)};
}

// All outputs of a small weight for some rows, by one thread: row(r) -> const float*, store_result(r, panel, F32x16).
// `memory` holds quantized_rows_bytes() where the weight is quantised.
template <typename Row, typename Store>
inline void multiply_weight(const Weight& weight, int64_t num_rows, Row&& row, std::byte* memory,
                            Store&& store_result) {
  if (!is_quantized(weight.format)) {
    with_panels(weight, 0, [&](auto weights) {
      multiply_block(num_rows, row, weight.cols, weights, num_panels(weight), store_result);
    });
    return;
  }
  const QuantizedShape shape(weight);
  const QuantizedRows rows = place_rows(weight, num_rows, memory);
  for (int64_t r = 0; r < num_rows; ++r) quantize_row(row(r), shape.excess(), rows, r);
  const auto view = [&](int64_t r) { return row_view(rows, r); };
  if (shape.bits == 4) {
    multiply_quantized_block<4>(num_rows, view, shape, weight.data, 0, shape.num_panels(), store_result);
  } else {
    multiply_quantized_block<8>(num_rows, view, shape, weight.data, 0, shape.num_panels(), store_result);
  }
}

bool supports(WeightFormat format);
int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols);
void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed);

}  // namespace sluice::cpu::SLUICE_ISA
