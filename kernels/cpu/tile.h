// The one inner loop of all matrix products: a tile of NUM_ROWS x (NUM_PANELS * 16) outputs held in registers.
//
//   acc[r][p][lane] = sum over k, ascending, of  x[r][k] * w[p * panel_stride + k * k_stride + lane]
//
//                     panel 0         panel 1
//   w:   k = 0   [ 16 outputs ]   [ 16 outputs ]        packed weights: k_stride = 16, panel_stride = 16 * cols
//        k = 1   [ 16 outputs ]   [ 16 outputs ]        rows of a cache page: k_stride = row, panel_stride = 16
//
// bf16 weights come in pairs of inputs, [cols / 2][16 outputs][2], which is also what products of bf16 by bf16 read
// (pair_tile.h); an odd last input is paired with zeros.
//
// Lanes are outputs, so an output has one accumulator and one chain of fmas: the bits do not depend on NUM_ROWS,
// NUM_PANELS or the instruction set, and a GEMV is the same sum as a GEMM.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

#if defined(__AVX512F__)
// 6 x 4 accumulators + 4 weights of 32 registers; each weight vector is used 6 times, each x value 4 times.
constexpr int kTileRows = 6;
constexpr int kTilePanels = 4;
// A single row needs 2 ports x 4 cycles = 8 chains in flight.
constexpr int kVectorPanels = 8;
#else
// 6 x 1 accumulators of two registers each, of 16.
constexpr int kTileRows = 6;
constexpr int kTilePanels = 1;
constexpr int kVectorPanels = 4;
#endif

template <typename T>
struct TileWeights {
  const T* data;         // first panel
  int64_t panel_stride;  // elements
  int64_t k_stride;      // elements, from input to input (f32) or from pair to pair (bf16)
};

// acc[r][p] += x[r][k] * w[k][p], load_panel(p) giving the latter.
template <int NUM_ROWS, int NUM_PANELS, typename Load>
inline void accumulate(const float* const* x, int64_t k, Load&& load_panel, F32x16 (&acc)[NUM_ROWS][NUM_PANELS]) {
  F32x16 weights[NUM_PANELS];
#pragma GCC unroll 8
  for (int p = 0; p < NUM_PANELS; ++p) weights[p] = load_panel(p);
#pragma GCC unroll 8
  for (int r = 0; r < NUM_ROWS; ++r) {
    const F32x16 value = broadcast(x[r][k]);
#pragma GCC unroll 8
    for (int p = 0; p < NUM_PANELS; ++p) acc[r][p] = fma(value, weights[p], acc[r][p]);
  }
}

template <int NUM_ROWS, int NUM_PANELS, typename T, typename Store>
inline void multiply_tile(const float* const* x, int64_t depth, TileWeights<T> w, Store&& store_result) {
  F32x16 acc[NUM_ROWS][NUM_PANELS];
#pragma GCC unroll 8
  for (int r = 0; r < NUM_ROWS; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < NUM_PANELS; ++p) acc[r][p] = zero();
  if constexpr (std::is_same_v<T, float>) {
    for (int64_t k = 0; k < depth; ++k)
      accumulate(
          x, k, [&](int p) { return load(w.data + p * w.panel_stride + k * w.k_stride); }, acc);
  } else {
    const auto pair = [&](int p, int64_t k) { return load_bytes(w.data + p * w.panel_stride + k / 2 * w.k_stride); };
    for (int64_t k = 0; k + 1 < depth; k += 2) {
      accumulate(
          x, k, [&](int p) { return even_bf16(pair(p, k)); }, acc);
      accumulate(
          x, k + 1, [&](int p) { return odd_bf16(pair(p, k)); }, acc);
    }
    if (depth % 2 != 0)
      accumulate(
          x, depth - 1, [&](int p) { return even_bf16(pair(p, depth - 1)); }, acc);
  }
#pragma GCC unroll 8
  for (int r = 0; r < NUM_ROWS; ++r)
#pragma GCC unroll 8
    for (int p = 0; p < NUM_PANELS; ++p) store_result(r, p, acc[r][p]);
}

// Runtime row count [1, kTileRows] -> the unrolled loop.
template <int NUM_PANELS, typename T, typename Store>
inline void multiply_tile_rows(int num_rows, const float* const* x, int64_t depth, TileWeights<T> w,
                               Store&& store_result) {
  switch (num_rows) {
    case 1:
      multiply_tile<1, NUM_PANELS>(x, depth, w, store_result);
      return;
    case 2:
      multiply_tile<2, NUM_PANELS>(x, depth, w, store_result);
      return;
    case 3:
      multiply_tile<3, NUM_PANELS>(x, depth, w, store_result);
      return;
    case 4:
      multiply_tile<4, NUM_PANELS>(x, depth, w, store_result);
      return;
    case 5:
      multiply_tile<5, NUM_PANELS>(x, depth, w, store_result);
      return;
    default:
      multiply_tile<6, NUM_PANELS>(x, depth, w, store_result);
      return;
  }
}

// All of [num_rows] x [num_panels * 16]: row(r) -> const float*, store_result(r, panel, F32x16).
template <typename T, typename Row, typename Store>
inline void multiply_block(int64_t num_rows, Row&& row, int64_t depth, TileWeights<T> w, int64_t num_panels,
                           Store&& store_result) {
  for (int64_t r0 = 0; r0 < num_rows; r0 += kTileRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kTileRows, num_rows - r0));
    const float* x[kTileRows];
    for (int r = 0; r < rows; ++r) x[r] = row(r0 + r);
    int64_t panel = 0;
    const auto run = [&]<int NUM_PANELS>(std::integral_constant<int, NUM_PANELS>) {
      for (; panel + NUM_PANELS <= num_panels; panel += NUM_PANELS) {
        const TileWeights<T> part{w.data + panel * w.panel_stride, w.panel_stride, w.k_stride};
        const auto put = [&](int r, int p, F32x16 value) { store_result(r0 + r, panel + p, value); };
        if constexpr (NUM_PANELS > kTilePanels) {
          multiply_tile<1, NUM_PANELS>(x, depth, part, put);
        } else {
          multiply_tile_rows<NUM_PANELS>(rows, x, depth, part, put);
        }
      }
    };
    if (rows == 1) run(std::integral_constant<int, kVectorPanels>{});
    if constexpr (kTilePanels > 1) run(std::integral_constant<int, kTilePanels>{});
    run(std::integral_constant<int, 1>{});
  }
}

}  // namespace sluice::cpu::SLUICE_ISA
