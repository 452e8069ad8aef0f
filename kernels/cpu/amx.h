// The instructions of AMX, with the tile register as a template argument (the compiler's intrinsics paste its number
// from a literal). Each says that it touches memory, so none moves across the stores that feed it.
#pragma once

#if defined(__AMX_TILE__)

#include <cstdint>

namespace sluice::cpu::SLUICE_ISA {

constexpr int64_t kAmxTileBytes = 64;  // of one row of a tile register; it has up to 16

// What LDTILECFG reads (Intel SDM, volume 1, 18.2): registers [0, 8), of which 0 is anything that a loop sums into.
struct alignas(64) AmxConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t num_rows[16] = {};

  void set(int tile, int64_t rows, int64_t bytes) {
    num_rows[tile] = static_cast<uint8_t>(rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};
static_assert(sizeof(AmxConfig) == 64);

inline void amx_configure(const AmxConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config)); }
// Until then the thread's state is 8 KiB larger at every switch.
inline void amx_release() { asm volatile("tilerelease"); }

template <int TILE>
inline void amx_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(TILE));
}
// `stride` in bytes.
template <int TILE>
inline void amx_load(const void* rows, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(TILE) : "memory");
}
template <int TILE>
inline void amx_store(void* rows, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(TILE) : "memory");
}
// SUM[m][n] += sum over k of A[m][k] * B[k / 4][4 n + k % 4]: signed bytes, int32 sums.
template <int SUM, int A, int B>
inline void amx_dot_s8() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B));
}
// The same, A's bytes unsigned.
template <int SUM, int A, int B>
inline void amx_dot_u8s8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B));
}
// SUM[m][n] += sum over pairs k of A[m][2 k] * B[k][2 n], and as much of the odd ones: f32 sums.
template <int SUM, int A, int B>
inline void amx_dot_bf16() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(SUM), "i"(A), "i"(B));
}

}  // namespace sluice::cpu::SLUICE_ISA

#endif
