// The one vocabulary for weights: on command lines, in configs, in metrics, everywhere.
#pragma once

#include <cstdint>
#include <string_view>

#include "sluice/status.h"

namespace sluice {

enum class WeightFormat : uint8_t {
  kAuto,  // what the checkpoint holds: F32 stays f32, everything else bf16
  kF32,
  kBF16,
  kInt8,     // 8 bits, symmetric, one f16 scale per group of 128 inputs
  kInt4G32,  // 4 bits, symmetric, one f16 scale per group of inputs
  kInt4G64,
  kInt4G128,
  kInt4G32Z,  // the same with a zero point per group, for weights that do not lie around zero
  kInt4G64Z,
  kInt4G128Z,
};

const char* name(WeightFormat format);                            // "int4-g32"
Result<WeightFormat> parse_weight_format(std::string_view text);  // INVALID_ARGUMENT lists the vocabulary

// Bytes that `rows` x `cols` weights take in this format (scales and zero points, one byte each, included; padding not).
int64_t weight_bytes(WeightFormat format, int64_t rows, int64_t cols);

}  // namespace sluice
