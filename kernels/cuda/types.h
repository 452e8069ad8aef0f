// Element types of device memory and the stream, as plain data: what kernels, their callers and their tests share. No
// CUDA headers, so that a machine without a toolkit can compile all of them.
#pragma once

#include <cstdint>

struct CUstream_st;  // CUDA's own name for what cudaStream_t points to

namespace sluice::cuda {

using Stream = CUstream_st*;

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
struct f8e4m3 {
  uint8_t bits;  // 1 sign, 4 exponent (bias 7), 3 mantissa; 0x7F and 0xFF are NaN, no infinity
};

struct alignas(16) Vec16 {  // one 16-byte access
  uint32_t words[4];
};

}  // namespace sluice::cuda
