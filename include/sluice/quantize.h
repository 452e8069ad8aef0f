// Group quantisation: the one definition that every backend packs and multiplies by.
//
//   a row of weights   | group 0 | group 1 | ...        w[k] = scale(group) * code[k],  code in [-8, 7] or [-127, 127]
//   a row of x         | group 0 | group 1 | ...        x[k] = scale(group) * code[k],  code in [-127, 127], made per
//   step
//
//   y = sum over groups, ascending, of  fma(float(sum of code_w * code_x in int32), scale_w * scale_x, y)
//
// The inner sums are integers, so their order does not matter: every kernel, blocked or not, gives the same bits.
#pragma once

#include <cstdint>

#include "sluice/weight_format.h"

namespace sluice {

bool is_quantized(WeightFormat format);

// Bits of a code: 4 or 8.
int32_t code_bits(WeightFormat format);

// Inputs that share a scale, in a matrix of `cols` inputs: the format's group, or the next smaller of 64, 32 that
// divides cols; 0 if not even 32 does (such a matrix stays bf16, see storage_format).
int32_t group_size(WeightFormat format, int64_t cols);

// The format in which a matrix of `cols` inputs is really kept.
WeightFormat storage_format(WeightFormat wanted, int64_t cols);

// Codes of one group of weights (count: a multiple of 16); returns the scale, already rounded to f16. Searches the
// scale with the least squared error around amax / 7.5 (4 bits; 8 bits need no search).
float quantize_weights(const float* weights, int32_t count, int32_t bits, int8_t* codes);

// Codes of one group of activations, scale amax / 127, nearest even; returns the scale.
float quantize_activations(const float* x, int32_t count, int8_t* codes);

}  // namespace sluice
