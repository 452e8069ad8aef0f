// Shuffles weights into the order of gemm.h; on the host, while loading.
#pragma once

#include <cstdint>

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// Operand A of mma.m16n8k16, word j of a lane: its row and the lower of its two inputs, within 16 x 16.
constexpr int operand_row(int lane, int j) { return lane / 4 + 8 * (j % 2); }
constexpr int operand_input(int lane, int j) { return lane % 4 * 2 + 8 * (j / 2); }

// codes [n, k] in [-8, 7] -> packed [n / 16, k / 64, 32 lanes, 4 words].
inline void shuffle_int4(const int8_t* codes, int64_t n, int64_t k, uint32_t* packed) {
  for (int64_t strip = 0; strip < n / 16; ++strip) {
    for (int64_t block = 0; block < k / 16; ++block) {
      for (int lane = 0; lane < 32; ++lane) {
        uint32_t word = 0;
        for (int j = 0; j < 4; ++j) {
          const int8_t* pair = codes + (strip * 16 + operand_row(lane, j)) * k + block * 16 + operand_input(lane, j);
          word |= static_cast<uint32_t>(pair[0] + 8) << (4 * j) | static_cast<uint32_t>(pair[1] + 8) << (4 * j + 16);
        }
        packed[((strip * (k / 64) + block / 4) * 32 + lane) * 4 + block % 4] = word;
      }
    }
  }
}

// weights [n, k] -> packed [n / 16, k / 64, 2 halves, 32 lanes, 16 bytes].
inline void shuffle_fp8(const f8e4m3* weights, int64_t n, int64_t k, uint8_t* packed) {
  for (int64_t strip = 0; strip < n / 16; ++strip) {
    for (int64_t block = 0; block < k / 16; ++block) {
      for (int lane = 0; lane < 32; ++lane) {
        uint8_t* target = packed + ((strip * (k / 32) + block / 2) * 32 + lane) * 16 + block % 2 * 8;
        for (int j = 0; j < 4; ++j) {
          const f8e4m3* pair = weights + (strip * 16 + operand_row(lane, j)) * k + block * 16 + operand_input(lane, j);
          target[j / 2 * 4 + j % 2] = pair[0].bits;
          target[j / 2 * 4 + j % 2 + 2] = pair[1].bits;
        }
      }
    }
  }
}

// weights [n, k] -> packed [n / 16, k / 16, 32 lanes, 4 words].
inline void shuffle_bf16(const bf16* weights, int64_t n, int64_t k, uint32_t* packed) {
  for (int64_t strip = 0; strip < n / 16; ++strip) {
    for (int64_t block = 0; block < k / 16; ++block) {
      for (int lane = 0; lane < 32; ++lane) {
        for (int j = 0; j < 4; ++j) {
          const bf16* pair = weights + (strip * 16 + operand_row(lane, j)) * k + block * 16 + operand_input(lane, j);
          packed[((strip * (k / 16) + block) * 32 + lane) * 4 + j] = pair[0].bits | uint32_t{pair[1].bits} << 16;
        }
      }
    }
  }
}

}  // namespace sluice::cuda
