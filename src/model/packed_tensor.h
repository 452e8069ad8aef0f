// Matrices that a checkpoint holds as codes already: the three layouts in which quantised models are published, and how
// rows of f32 come out of them. Owns no bytes; views come from a lookup by tensor name. Knows nothing of configs (that
// is quantization_config.cc) and of what becomes of the rows. Called by Checkpoint, from many loading threads at once.
//
// A matrix NAME.weight [rows, cols] of `bits`-bit codes, n = 32 / bits codes in an int32, the lower bits first:
//
//   pack-quantized   NAME.weight_packed [rows, cols / n] I32   code + 2^(bits - 1), n inputs in a word
//   (compressed-     NAME.weight_scale [rows, groups]
//    tensors)        NAME.weight_zero_point [rows / n, groups] I32   (asymmetric) zero + 2^(bits - 1), n rows in a word
//                    NAME.weight_shape [2] I64                 rows, cols
//
//   GPTQ             NAME.qweight [cols / n, rows] I32         n inputs in a word
//                    NAME.scales [groups, rows]
//                    NAME.qzeros [groups, rows / n] I32        n outputs in a word; version 1 stores zero - 1
//                    NAME.g_idx [cols] I32                     (may be absent) the group of each input
//
//   AWQ              NAME.qweight [cols, rows / 8] I32         8 outputs in a word, output kAwqOrder[i] at nibble i
//                    NAME.scales [groups, rows], NAME.qzeros [groups, rows / 8] I32, in the same order
//
//   w = scale * (code - zero); groups = cols / group (pack-quantized and GPTQ: 1 for one scale a row)
//
// Scales are rounded to f16, which kernels keep; published ones are f16 or bf16, and lose nothing above 2^-17.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "sluice/status.h"
#include "sluice/tensor.h"

namespace sluice {

enum class PackedLayout : uint8_t { kPackQuantized, kGptq, kAwq };

// What a checkpoint's quantization_config says of its matrices.
struct PackedScheme {
  PackedLayout layout = PackedLayout::kPackQuantized;
  int32_t bits = 4;             // 4 or 8
  int32_t group = 0;            // inputs of the largest group; 0: one scale a row
  bool symmetric = true;        // zero is 2^(bits - 1), the middle of the codes
  bool zeros_less_one = false;  // GPTQ version 1

  bool operator==(const PackedScheme&) const = default;
};

// A tensor and, for errors, the file it lies in; both null if there is none of the name.
struct FoundTensor {
  const TensorView* view = nullptr;
  const std::string* path = nullptr;
};
using TensorLookup = std::function<FoundTensor(const std::string& name)>;

// Whether `name` ("....weight") is there as codes.
bool has_packed(const PackedScheme& scheme, const std::string& name, const TensorLookup& find);

// FAILED_PRECONDITION naming file, tensor, expected and found unless all parts are there for a matrix of this shape.
// Precondition: has_packed().
Status expect_packed(const PackedScheme& scheme, const std::string& name, const Shape& shape, const TensorLookup& find);

// Inputs that share a scale. Precondition: expect_packed() said ok.
int64_t packed_group(const PackedScheme& scheme, const std::string& name, const TensorLookup& find);

// Rows [row_begin, row_begin + num_rows) of a [., cols] matrix; out: [num_rows, cols]. Precondition: expect_packed()
// said ok.
void read_packed_rows(const PackedScheme& scheme, const std::string& name, int64_t row_begin, int64_t num_rows,
                      const TensorLookup& find, float* out);

}  // namespace sluice
