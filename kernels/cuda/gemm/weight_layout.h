// Shuffles weights into the order of gemm.h; on the host, while loading.
#pragma once

#include <cstdint>

namespace sluice::cuda {

// codes [n, k] in [-8, 7] -> packed [n / 16, k / 64, 32 lanes, 4 words].
inline void shuffle_int4(const int8_t* codes, int64_t n, int64_t k, uint32_t* packed) {
  for (int64_t strip = 0; strip < n / 16; ++strip) {
    for (int64_t block = 0; block < k / 16; ++block) {
      for (int lane = 0; lane < 32; ++lane) {
        uint32_t word = 0;
        for (int j = 0; j < 4; ++j) {  // operand A, word j: row, and the lower of its two inputs
          const int64_t row = strip * 16 + lane / 4 + 8 * (j % 2);
          const int64_t input = block * 16 + lane % 4 * 2 + 8 * (j / 2);
          const int8_t* pair = codes + row * k + input;
          word |= static_cast<uint32_t>(pair[0] + 8) << (4 * j) | static_cast<uint32_t>(pair[1] + 8) << (4 * j + 16);
        }
        packed[((strip * (k / 64) + block / 4) * 32 + lane) * 4 + block % 4] = word;
      }
    }
  }
}

}  // namespace sluice::cuda
