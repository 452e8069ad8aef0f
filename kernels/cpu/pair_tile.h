// Products of bf16 operands, two inputs at a time (simd.h, dot2): twice the rate of f32 where the machine has the
// instruction, the same bits everywhere.
//
//   acc[r][p][lane] = sum over pairs k, ascending, of  x[r][2k + 1] * w[2k + 1][lane], then  x[r][2k] * w[2k][lane]
//
//   x:  row r's pair k at x[r] + k * x_stride                    (elements)
//   w:  panel p's pair k at data + p * panel_stride + k * 32:    16 lanes of two inputs
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

constexpr int64_t kPairElements = 2 * kLanes;  // of one pair of one panel

#if defined(__AVX512F__)
// 12 x 2 accumulators, 2 weights, of 32 registers. More rows than panels: weights come from L2, x from L1, and this
// way L2 delivers 128 bytes for 24 instructions.
constexpr int kPairRows = 12;
constexpr int kPairPanels = 2;
#else
// 2 x 1 accumulators of two registers each; the halves of x and w take the other 12 of 16.
constexpr int kPairRows = 2;
constexpr int kPairPanels = 1;
#endif

struct PairWeights {
  const uint16_t* data;  // first panel
  int64_t panel_stride;  // elements
};

inline I32x16 broadcast_pair(const uint16_t* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof(both));
  return broadcast_i32(both);
}

// Rows [0, num_rows) are stored; the tile may be larger than that, its pointers beyond repeat the last row.
template <int NUM_ROWS, int NUM_PANELS, typename Store>
inline void multiply_pairs_tile(int num_rows, const uint16_t* const* x, int64_t x_stride, int64_t num_pairs,
                                PairWeights w, Store&& store_result) {
  F32x16 acc[NUM_ROWS][NUM_PANELS];
#pragma GCC unroll 12
  for (int r = 0; r < NUM_ROWS; ++r)
#pragma GCC unroll 2
    for (int p = 0; p < NUM_PANELS; ++p) acc[r][p] = zero();
  for (int64_t k = 0; k < num_pairs; ++k) {
    I32x16 weights[NUM_PANELS];
#pragma GCC unroll 2
    for (int p = 0; p < NUM_PANELS; ++p) weights[p] = load_bytes(w.data + p * w.panel_stride + k * kPairElements);
#pragma GCC unroll 12
    for (int r = 0; r < NUM_ROWS; ++r) {
      const I32x16 pair = broadcast_pair(x[r] + k * x_stride);
#pragma GCC unroll 2
      for (int p = 0; p < NUM_PANELS; ++p) acc[r][p] = dot2(acc[r][p], pair, weights[p]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < NUM_ROWS; ++r)
    if (r < num_rows)
#pragma GCC unroll 2
      for (int p = 0; p < NUM_PANELS; ++p) store_result(r, p, acc[r][p]);
}

// The smallest tile of [1, kPairRows] rows that holds num_rows.
template <int NUM_PANELS, typename Store>
inline void multiply_pairs_rows(int num_rows, const uint16_t* const* x, int64_t x_stride, int64_t num_pairs,
                                PairWeights w, Store&& store_result) {
  if (num_rows == 1) return multiply_pairs_tile<1, NUM_PANELS>(num_rows, x, x_stride, num_pairs, w, store_result);
#if defined(__AVX512F__)
  if (num_rows > 8) return multiply_pairs_tile<12, NUM_PANELS>(num_rows, x, x_stride, num_pairs, w, store_result);
  if (num_rows > 4) return multiply_pairs_tile<8, NUM_PANELS>(num_rows, x, x_stride, num_pairs, w, store_result);
  if (num_rows > 2) return multiply_pairs_tile<4, NUM_PANELS>(num_rows, x, x_stride, num_pairs, w, store_result);
#endif
  multiply_pairs_tile<2, NUM_PANELS>(num_rows, x, x_stride, num_pairs, w, store_result);
}

// All of [num_rows] x [num_panels * 16]: row(r) -> const uint16_t*, store_result(r, panel, F32x16). Rows of one tile
// come in ascending order for each panel.
template <typename Row, typename Store>
inline void multiply_pairs(int64_t num_rows, Row&& row, int64_t x_stride, int64_t num_pairs, PairWeights w,
                           int64_t num_panels, Store&& store_result) {
  for (int64_t r0 = 0; r0 < num_rows; r0 += kPairRows) {
    const int rows = static_cast<int>(std::min<int64_t>(kPairRows, num_rows - r0));
    const uint16_t* x[kPairRows];
    for (int r = 0; r < kPairRows; ++r) x[r] = row(r0 + std::min(r, rows - 1));
    int64_t panel = 0;
    const auto run = [&]<int NUM_PANELS>(std::integral_constant<int, NUM_PANELS>) {
      for (; panel + NUM_PANELS <= num_panels; panel += NUM_PANELS)
        multiply_pairs_rows<NUM_PANELS>(rows, x, x_stride, num_pairs, {w.data + panel * w.panel_stride, w.panel_stride},
                                        [&](int r, int p, F32x16 value) { store_result(r0 + r, panel + p, value); });
    };
    if constexpr (kPairPanels > 1) run(std::integral_constant<int, kPairPanels>{});
    run(std::integral_constant<int, 1>{});
  }
}

// The result as the weights of a further product: rows become inputs, in pairs. Row r of panel p goes to pair r / 2 at
// out + p * panel_stride; the last row of an odd number is paired with zeros.
template <typename Row>
inline void multiply_into_pairs(int64_t num_rows, Row&& row, int64_t x_stride, int64_t num_pairs, PairWeights w,
                                int64_t num_panels, uint16_t* out, int64_t panel_stride) {
  static_assert(kPairRows % 2 == 0);
  F32x16 even[kPairPanels];  // of the tile at hand: a tile begins with an even row and goes row by row
  multiply_pairs(num_rows, row, x_stride, num_pairs, w, num_panels, [&](int64_t r, int64_t p, F32x16 value) {
    uint16_t* target = out + p * panel_stride + r / 2 * kPairElements;
    if (r % 2 != 0) {
      store_bytes(target, pair_bf16(even[p % kPairPanels], value));
    } else if (r + 1 == num_rows) {
      store_bytes(target, pair_bf16(value, zero()));
    } else {
      even[p % kPairPanels] = value;
    }
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
