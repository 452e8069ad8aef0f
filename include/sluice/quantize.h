// Group quantisation: the one definition that every backend packs and multiplies by.
//
//   a row of weights   | group 0 | group 1 | ...        w[k] = scale(group) * (code[k] - zero(group))
//                                                       4 bits: code in [-8, 7]; 8 bits: code in [-127, 127], -128 too
//                                                       where weights come as codes from a file
//                                                       zero: 0, or in [-8, 7] in the formats with suffix z
//   a row of x         | group 0 | group 1 | ...        x[k] = scale(group) * code[k],  code in [-127, 127], made per
//   step
//
//   y = sum over groups, ascending, of
//         fma(float(sum of code_w * code_x - zero_w * sum of code_x), scale_w * scale_x, y)     (the sums in int32)
//
// The inner sums are integers, so their order does not matter: every kernel, blocked or not, gives the same bits. At
// 15 * 127 a term, 128 terms stay far below 2^24, so that the conversion to float is exact, too.
//
// Scales that the search chooses are values of both f16 (what kernels keep) and bf16 (what files hold), so a model
// quantised on load and one read from a quantised file have the same bits.
//
// A group of weights that already are the products of an f16 scale and codes comes back as exactly these values:
// ready-made checkpoints go through the same f32 rows as any other, and nothing is rounded twice.
#pragma once

#include <cstdint>

#include "sluice/weight_format.h"

namespace sluice {

bool is_quantized(WeightFormat format);

// Whether groups have a zero point.
bool has_zero_points(WeightFormat format);

// Bits of a code: 4 or 8.
int32_t code_bits(WeightFormat format);

// Inputs that share a scale, in a matrix of `cols` inputs: the format's group, or the next smaller of 64, 32 that
// divides cols; 0 if not even 32 does (such a matrix stays bf16, see storage_format).
int32_t group_size(WeightFormat format, int64_t cols);

// The format in which a matrix of `cols` inputs is really kept.
WeightFormat storage_format(WeightFormat wanted, int64_t cols);

// Where the values of a group lie: scale * (code - zero).
struct GroupGrid {
  float scale = 0;  // an f16 value
  int32_t zero = 0;
};

// Codes of one group of weights in a quantised format (count: a multiple of 16). The search looks for the least
// squared error; 8 bits need none, their scale is amax / 127.
GroupGrid quantize_group(WeightFormat format, const float* weights, int32_t count, int8_t* codes);

// The same for `num_groups` groups that lie one behind the other: codes [num_groups][count], grids [num_groups]. The
// same bits as one by one, several times faster in 4 bits.
void quantize_groups(WeightFormat format, const float* weights, int32_t count, int64_t num_groups, int8_t* codes,
                     GroupGrid* grids);

// A row of weights (destroyed) whose rounding errors are made good by the weights after them, as far as inputs go
// together (GPTQ, arXiv:2210.17323): the error of weight k, over U[k][k], is taken from weight j > k U[k][j] times.
// `factor` is U [cols, cols], upper triangular, with U^T U the inverse of X^T X over sample inputs X.
// codes: [cols]; grids: [cols / group], each chosen when its group's turn comes.
void quantize_row_compensated(WeightFormat format, float* weights, int64_t cols, const float* factor, int8_t* codes,
                              GroupGrid* grids);

// The same as quantize_group for the formats without zero points: returns the scale.
float quantize_weights(const float* weights, int32_t count, int32_t bits, int8_t* codes);

// Codes of one group of activations, scale amax / 127, nearest even; returns the scale.
float quantize_activations(const float* x, int32_t count, int8_t* codes);

// Weights of a group from codes as files hold them, `excess` above the definition's: out[i] = scale * (stored[i] -
// excess). Nibbles: the lower one of a byte first.
void expand_nibbles(const uint8_t* stored, int32_t count, float scale, int32_t excess, float* out);
void expand_bytes(const uint8_t* stored, int32_t count, float scale, int32_t excess, float* out);

}  // namespace sluice
