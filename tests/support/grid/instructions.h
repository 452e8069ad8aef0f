// The host half of the named wrappers of kernels/cuda/ptx.cuh, by the lane layouts of the PTX ISA. Only grid.h includes
// this file.
//
//   fragments of mma.m16n8k16, 16-bit elements; lane l, group g = l / 4, t = l % 4; two elements a word, lower k first
//     A [16, 16]  word i: row g + 8 (i % 2),  k 2t + 8 (i / 2) and + 1
//     B [16, 8]   word i: column g,           k 2t + 8 i       and + 1
//     D [16, 8]   value i: row g + 8 (i / 2), column 2t + i % 2
//   mma.m16n8k32, 8-bit elements: the same with four elements a word, k 4t + 16 (i / 2) .. + 3 for A, 4t + 16 i for B
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <tuple>

#include "kernels/cuda/types.h"

namespace sluice::cuda {

template <typename Plan>
Plan& static_shared() {
  return *static_cast<Plan*>(grid::static_shared_memory(typeid(Plan), sizeof(Plan)));
}
template <typename Plan>
Plan& dynamic_shared() {
  return *static_cast<Plan*>(grid::dynamic_shared_memory(sizeof(Plan)));
}

// ---- Within a warp.

inline void warp_sync() {
  grid::warp_operation("warp_sync", nullptr, nullptr, [](auto&, auto&, int) {});
}

template <typename T>
T shuffle_xor(T value, int mask) {
  if (mask < 0 || mask >= 32) grid::fail("shuffle_xor: mask %d outside [0, 32)", mask);
  T result;
  grid::warp_operation(
      "shuffle_xor", &value, &result,
      [](auto& in, auto& out, int m) {
        for (int lane = 0; lane < 32; ++lane) *static_cast<T*>(out[lane]) = *static_cast<const T*>(in[lane ^ m]);
      },
      mask);
  return result;
}

// The lane may differ from lane to lane.
template <typename T>
T shuffle(T value, int lane) {
  if (lane < 0 || lane >= 32) grid::fail("shuffle: lane %d outside [0, 32)", lane);
  struct Operand {
    T value;
    int lane;
  } operand{value, lane};
  T result;
  grid::warp_operation("shuffle", &operand, &result, [](auto& in, auto& out, int) {
    for (int i = 0; i < 32; ++i) {
      const int source = static_cast<const Operand*>(in[i])->lane;
      *static_cast<T*>(out[i]) = static_cast<const Operand*>(in[source])->value;
    }
  });
  return result;
}

template <typename T>
T shuffle_up(T value, int delta) {
  if (delta < 0 || delta >= 32) grid::fail("shuffle_up: delta %d outside [0, 32)", delta);
  T result;
  grid::warp_operation(
      "shuffle_up", &value, &result,
      [](auto& in, auto& out, int d) {
        for (int lane = 0; lane < 32; ++lane)
          *static_cast<T*>(out[lane]) = *static_cast<const T*>(in[lane >= d ? lane - d : lane]);
      },
      delta);
  return result;
}

inline uint32_t ballot(bool predicate) {
  uint32_t result;
  grid::warp_operation("ballot", &predicate, &result, [](auto& in, auto& out, int) {
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= uint32_t{*static_cast<const bool*>(in[lane])} << lane;
    for (void* target : out) *static_cast<uint32_t*>(target) = bits;
  });
  return result;
}

inline uint32_t match_any(uint32_t value) {
  uint32_t result;
  grid::warp_operation("match_any", &value, &result, [](auto& in, auto& out, int) {
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t bits = 0;
      for (int other = 0; other < 32; ++other)
        bits |= uint32_t{*static_cast<const uint32_t*>(in[lane]) == *static_cast<const uint32_t*>(in[other])} << other;
      *static_cast<uint32_t*>(out[lane]) = bits;
    }
  });
  return result;
}

inline uint32_t warp_max_u32(uint32_t value) {
  uint32_t result;
  grid::warp_operation("warp_max_u32", &value, &result, [](auto& in, auto& out, int) {
    uint32_t peak = 0;
    for (const void* source : in) peak = std::max(peak, *static_cast<const uint32_t*>(source));
    for (void* target : out) *static_cast<uint32_t*>(target) = peak;
  });
  return result;
}

// ---- Within a block and between blocks.

inline void named_barrier(int id, int threads) { grid::barrier(id, threads); }

template <typename T>
SLUICE_GRID_DIRECT T atomic_add(T* address, T value) {
  grid::meet(address, sizeof(T));
  const T old = *address;
  *address = old + value;
  return old;
}
inline void thread_fence() { grid::fence(); }
inline int32_t load_acquire(const int32_t* address) { return *address; }
SLUICE_GRID_DIRECT inline void store_release(int32_t* address, int32_t value) {
  grid::fence();
  grid::meet(address, sizeof(int32_t));
  *address = value;
}

template <typename Ready>
void wait_until(Ready&& ready) {
  while (!ready()) grid::yield();
}

// ---- Memory.

inline Vec16 load16_fresh(const void* address) { return *static_cast<const Vec16*>(address); }

inline void cp_async_16(void* target, const void* source, bool valid = true) {
  grid::copy_later(target, source, 16, valid);
}
inline void cp_async_4(void* target, const void* source) { grid::copy_later(target, source, 4, true); }
inline void cp_async_commit() { grid::commit_copies(); }
template <int kPending>
void cp_async_wait() {
  grid::wait_copies(kPending);
}

namespace internal {

// Eight rows of one matrix are read at once; 128 bytes of banks, so two rows conflict if they share a 16-byte column.
inline void note_conflicts(const void* const (&rows)[32], int matrix) {
  uint32_t columns = 0;
  for (int r = 0; r < 8; ++r) {
    const auto address = reinterpret_cast<uintptr_t>(*static_cast<const void* const*>(rows[8 * matrix + r]));
    columns |= 1u << (address / 16 % 8);
  }
  grid::count_bank_conflicts(8 - std::popcount(columns));
}

template <bool kTransposed>
void ldmatrix_x4(uint32_t (&words)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) grid::fail("ldmatrix: row at %p is not aligned to 16", row);
  grid::warp_operation(kTransposed ? "ldmatrix_x4_transposed" : "ldmatrix_x4", &row, words,
                       [](auto& in, auto& out, int) {
                         for (int m = 0; m < 4; ++m) {
                           note_conflicts(in, m);
                           uint16_t matrix[8][8];
                           for (int r = 0; r < 8; ++r)
                             std::memcpy(matrix[r], *static_cast<const void* const*>(in[8 * m + r]), 16);
                           for (int lane = 0; lane < 32; ++lane) {
                             const int i = lane / 4, j = lane % 4 * 2;
                             const uint32_t low = kTransposed ? matrix[j][i] : matrix[i][j];
                             const uint32_t high = kTransposed ? matrix[j + 1][i] : matrix[i][j + 1];
                             static_cast<uint32_t*>(out[lane])[m] = low | high << 16;
                           }
                         }
                       });
}

inline float half_bits_to_f32(uint16_t bits) {
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
}

template <typename Value>
struct Fragments {
  const uint32_t* a;
  const uint32_t* b;
  Value* d;
};

// kPerWord elements of a word; decode(word, i) is its element i.
template <typename Value, int kPerWord, typename Decode>
void multiply(const void* const (&in)[32], Decode decode) {
  constexpr int kDepth = 8 * kPerWord;  // k of one mma
  Value a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& fragment = *static_cast<const Fragments<Value>*>(in[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int e = 0; e < kPerWord; ++e) {
      const int k = kPerWord * t + e;
      for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][k + kDepth / 2 * (i / 2)] = decode(fragment.a[i], e);
      for (int i = 0; i < 2; ++i) b[k + kDepth / 2 * i][g] = decode(fragment.b[i], e);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const auto& fragment = *static_cast<const Fragments<Value>*>(in[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      Value sum = fragment.d[i];
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
      fragment.d[i] = sum;
    }
  }
}

}  // namespace internal

inline void ldmatrix_x4(uint32_t (&words)[4], const void* row) { internal::ldmatrix_x4<false>(words, row); }
inline void ldmatrix_x4_transposed(uint32_t (&words)[4], const void* row) { internal::ldmatrix_x4<true>(words, row); }

// ---- Matrix units.

inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const internal::Fragments<float> fragment{a, b, d};
  grid::warp_operation("mma_m16n8k16_bf16", &fragment, nullptr, [](auto& in, auto&, int) {
    internal::multiply<float, 2>(
        in, [](uint32_t word, int e) { return std::bit_cast<float>(e == 0 ? word << 16 : word & 0xFFFF0000u); });
  });
}
inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const internal::Fragments<float> fragment{a, b, d};
  grid::warp_operation("mma_m16n8k16_f16", &fragment, nullptr, [](auto& in, auto&, int) {
    internal::multiply<float, 2>(
        in, [](uint32_t word, int e) { return internal::half_bits_to_f32(static_cast<uint16_t>(word >> (16 * e))); });
  });
}
inline void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const internal::Fragments<int32_t> fragment{a, b, d};
  grid::warp_operation("mma_m16n8k32_s8", &fragment, nullptr, [](auto& in, auto&, int) {
    internal::multiply<int32_t, 4>(in,
                                   [](uint32_t word, int e) { return int32_t{static_cast<int8_t>(word >> (8 * e))}; });
  });
}

// ---- Bits and numbers.

inline uint32_t and_or(uint32_t word, uint32_t mask, uint32_t bits) { return (word & mask) | bits; }
inline uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 0xF;
    if (nibble > 7) grid::fail("permute_bytes: selector %#x replicates signs, which no kernel needs", selector);
    result |= static_cast<uint32_t>(bytes >> (8 * nibble) & 0xFF) << (8 * i);
  }
  return result;
}

inline uint64_t multiply_high(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<uint64_t>(Wide{a} * b >> 64);
}

inline float bits_to_f32(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t f32_to_bits(float value) { return std::bit_cast<uint32_t>(value); }

namespace internal {

// Nearest even; NaN becomes CUDA's canonical one.
inline uint32_t bf16_bits(float value) {
  if (std::isnan(value)) return 0x7FFF;
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

}  // namespace internal

inline uint32_t pack_bf16(float low, float high) { return internal::bf16_bits(low) | internal::bf16_bits(high) << 16; }
inline float to_f32(f16 value) { return internal::half_bits_to_f32(value.bits); }
inline uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  // The product of two bf16 values is exact in f32, its sum with a third in double: one rounding to f32 precision at
  // most before the last, harmless for the exact results that kernels use this for.
  const auto half = [](uint32_t x, int e) { return double{std::bit_cast<float>(e == 0 ? x << 16 : x & 0xFFFF0000u)}; };
  return pack_bf16(static_cast<float>(half(a, 0) * half(b, 0) + half(c, 0)),
                   static_cast<float>(half(a, 1) * half(b, 1) + half(c, 1)));
}

inline float fma_f32(float a, float b, float c) { return std::fma(a, b, c); }
inline float multiply_f32(float a, float b) { return a * b; }
inline float max_f32(float a, float b) { return std::fmax(a, b); }
inline float exp_f32(float x) { return std::exp(x); }
inline float log_f32(float x) { return std::log(x); }
inline float log1p_f32(float x) { return std::log1p(x); }
inline float log2_f32(float x) { return std::log2(x); }
inline float sqrt_f32(float x) { return std::sqrt(x); }
inline float exp2_fast(float x) { return std::exp2(x); }
inline int first_bit(uint32_t bits) { return bits == 0 ? -1 : std::countr_zero(bits); }
inline int count_bits(uint32_t bits) { return std::popcount(bits); }

// ---- Launch.

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, size_t shared_bytes, Stream stream,
            const Arguments&... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  // As the kernel's own types: a copied array would be another array, and need not be aligned as the first.
  const std::tuple<Parameters...> values(arguments...);
  const auto work = [=] { grid::run([&] { std::apply(kernel, values); }, blocks, threads, shared_bytes); };
  if (stream) {
    stream->enqueue(work);
  } else {
    work();
  }
}

}  // namespace sluice::cuda
