// Row functions that several ops share.
#pragma once

#include "sluice/ops.h"

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

// y = weight * (x / sqrt(mean(x^2) + eps)), all [cols]; y may be x, weight null (ones).
void rms_norm_row(const float* x, const float* weight, float eps, int64_t cols, float* y);

// Rotates x[dim] in place by cos_sin [dim] (cosines, then sines).
void rotate(float* x, const float* cos_sin, int32_t dim, RopeLayout layout);

}  // namespace sluice::cpu::SLUICE_ISA
