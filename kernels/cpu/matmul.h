// Packed weights and the products over them; shared by matmul.cc and the attention files.
//
//   packed [rows, cols]:  panel 0 = rows [0, 16), panel 1 = rows [16, 32), ...   the last one padded with zeros
//   a panel:              [cols][16]: for each input the weights of its 16 outputs, in the order that decode streams
//   them
#pragma once

#include "sluice/check.h"
#include "sluice/ops.h"

#include "kernels/cpu/tile.h"

namespace sluice::cpu::SLUICE_ISA {

inline int64_t num_panels(const Weight& weight) { return (weight.rows + kLanes - 1) / kLanes; }

// Calls body(TileWeights<T>) with the weight's element type, starting at panel `panel_begin`.
template <typename Body>
inline void with_panels(const Weight& weight, int64_t panel_begin, Body&& body) {
  const int64_t stride = weight.cols * kLanes;
  if (weight.format == WeightFormat::kF32) {
    body(TileWeights<float>{reinterpret_cast<const float*>(weight.data) + panel_begin * stride, stride, kLanes});
  } else {
    SLUICE_DCHECK(weight.format == WeightFormat::kBF16, "format={}", name(weight.format));
    body(TileWeights<uint16_t>{reinterpret_cast<const uint16_t*>(weight.data) + panel_begin * stride, stride, kLanes});
  }
}

bool supports(WeightFormat format);
int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols);
void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed);

}  // namespace sluice::cpu::SLUICE_ISA
