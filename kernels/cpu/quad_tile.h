// Products of bytes, four inputs at a time (simd.h, dot4): x unsigned, w signed, sums in int32, which no order changes.
//
//   dot[r][p][lane] = start[p][lane] + sum over quads k, i in [0, 4), of  x[r][4k + i] * w[p][4k + i][lane]
//
//   x:  row r's quad k at x + r * x_stride + 4 k                      (bytes)
//   w:  panel p's quad k at data + p * panel_stride + k * 64:         16 lanes of four inputs
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

constexpr int64_t kQuadBytes = 4 * kLanes;  // of one quad of one panel

struct QuadRows {
  const uint8_t* data;
  int64_t stride;  // bytes
};

struct QuadWeights {
  const int8_t* data;                       // first panel
  int64_t panel_stride;                     // bytes
  const int32_t* starts = nullptr;          // [panels][16], or null for zeros
};

#if defined(__AVX512F__)
// 12 x 2 accumulators, 2 weights and a broadcast, of 32 registers; 16 rows of a single panel, for as many chains.
constexpr int kQuadRows = 12;
constexpr int kQuadVectorRows = 16;
constexpr int kQuadPanels = 2;
#else
// 2 x 1 accumulators of two registers each; dot4 takes the rest.
constexpr int kQuadRows = 2;
constexpr int kQuadVectorRows = 2;
constexpr int kQuadPanels = 1;
#endif

inline I32x16 broadcast_quad(const uint8_t* quad) {
  int32_t four;
  std::memcpy(&four, quad, sizeof(four));
  return broadcast_i32(four);
}

// Rows [0, num_rows) are stored; those of the tile beyond repeat the last.
template <int NUM_ROWS, int NUM_PANELS, typename Store>
inline void multiply_quads_tile(int num_rows, QuadRows x, int64_t num_quads, QuadWeights w, Store&& store_result) {
  const uint8_t* rows[NUM_ROWS];
  I32x16 dot[NUM_ROWS][NUM_PANELS];
#pragma GCC unroll 16
  for (int r = 0; r < NUM_ROWS; ++r) {
    rows[r] = x.data + std::min(r, num_rows - 1) * x.stride;
#pragma GCC unroll 2
    for (int p = 0; p < NUM_PANELS; ++p)
      dot[r][p] = w.starts != nullptr ? load_bytes(w.starts + p * kLanes) : broadcast_i32(0);
  }
  for (int64_t k = 0; k < num_quads; ++k) {
    I32x16 weights[NUM_PANELS];
#pragma GCC unroll 2
    for (int p = 0; p < NUM_PANELS; ++p) weights[p] = load_bytes(w.data + p * w.panel_stride + k * kQuadBytes);
#pragma GCC unroll 16
    for (int r = 0; r < NUM_ROWS; ++r) {
      const I32x16 quad = broadcast_quad(rows[r] + k * 4);
#pragma GCC unroll 2
      for (int p = 0; p < NUM_PANELS; ++p) dot[r][p] = dot4(dot[r][p], quad, weights[p]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < NUM_ROWS; ++r)
    if (r < num_rows)
#pragma GCC unroll 2
      for (int p = 0; p < NUM_PANELS; ++p) store_result(r, p, dot[r][p]);
}

#if defined(__AMX_INT8__)

// Matrix registers of 16 rows of 64 bytes (tile_registers.h): 16 rows of x times 16 quads of a panel in one
// instruction. Four accumulators: four rows of tiles of one panel, or one of four panels.
template <int NUM_TILES>
inline void multiply_quads_down(QuadRows x, int64_t steps, const int8_t* w, int32_t (*dots)[kLanes][kLanes]) {
  const int64_t block = kLanes * x.stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < steps; ++k) {
    const uint8_t* from = x.data + k * 64;
    _tile_loadd(6, w + k * kLanes * kQuadBytes, kQuadBytes);
    _tile_loadd(4, from, x.stride);
    _tile_dpbusd(0, 4, 6);
    if constexpr (NUM_TILES > 1) {
      _tile_loadd(5, from + block, x.stride);
      _tile_dpbusd(1, 5, 6);
    }
    if constexpr (NUM_TILES > 2) {
      _tile_loadd(4, from + 2 * block, x.stride);
      _tile_dpbusd(2, 4, 6);
    }
    if constexpr (NUM_TILES > 3) {
      _tile_loadd(5, from + 3 * block, x.stride);
      _tile_dpbusd(3, 5, 6);
    }
  }
  _tile_stored(0, dots[0], 64);
  if constexpr (NUM_TILES > 1) _tile_stored(1, dots[1], 64);
  if constexpr (NUM_TILES > 2) _tile_stored(2, dots[2], 64);
  if constexpr (NUM_TILES > 3) _tile_stored(3, dots[3], 64);
}

template <int NUM_TILES>
inline void multiply_quads_across(QuadRows x, int64_t steps, QuadWeights w, int32_t (*dots)[kLanes][kLanes]) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < steps; ++k) {
    const int8_t* from = w.data + k * kLanes * kQuadBytes;
    _tile_loadd(6, x.data + k * 64, x.stride);
    _tile_loadd(4, from, kQuadBytes);
    _tile_dpbusd(0, 6, 4);
    if constexpr (NUM_TILES > 1) {
      _tile_loadd(5, from + w.panel_stride, kQuadBytes);
      _tile_dpbusd(1, 6, 5);
    }
    if constexpr (NUM_TILES > 2) {
      _tile_loadd(4, from + 2 * w.panel_stride, kQuadBytes);
      _tile_dpbusd(2, 6, 4);
    }
    if constexpr (NUM_TILES > 3) {
      _tile_loadd(5, from + 3 * w.panel_stride, kQuadBytes);
      _tile_dpbusd(3, 6, 5);
    }
  }
  _tile_stored(0, dots[0], 64);
  if constexpr (NUM_TILES > 1) _tile_stored(1, dots[1], 64);
  if constexpr (NUM_TILES > 2) _tile_stored(2, dots[2], 64);
  if constexpr (NUM_TILES > 3) _tile_stored(3, dots[3], 64);
}

template <typename Store>
inline void multiply_quads(int64_t num_rows, QuadRows x, int64_t num_quads, QuadWeights w, int64_t num_panels,
                           Store&& store_result) {
  alignas(64) int32_t dots[4][kLanes][kLanes];
  const int64_t steps = (num_quads + kLanes - 1) / kLanes;
  const auto put = [&](int64_t tile, int64_t r0, int64_t panel) {
    const I32x16 start = w.starts != nullptr ? load_bytes(w.starts + panel * kLanes) : broadcast_i32(0);
    for (int64_t r = 0; r < std::min<int64_t>(kLanes, num_rows - r0); ++r)
      store_result(r0 + r, panel, load_bytes(dots[tile][r]) + start);
  };
  asm volatile("" ::: "memory");  // the loads' operands are not known to the compiler
  if (num_panels == 1) {
    for (int64_t r0 = 0; r0 < num_rows; r0 += 4 * kLanes) {
      const QuadRows from{x.data + r0 * x.stride, x.stride};
      const int64_t tiles = std::min<int64_t>(4, (num_rows - r0 + kLanes - 1) / kLanes);
      if (tiles == 4) {
        multiply_quads_down<4>(from, steps, w.data, dots);
      } else if (tiles == 3) {
        multiply_quads_down<3>(from, steps, w.data, dots);
      } else if (tiles == 2) {
        multiply_quads_down<2>(from, steps, w.data, dots);
      } else {
        multiply_quads_down<1>(from, steps, w.data, dots);
      }
      for (int64_t tile = 0; tile < tiles; ++tile) put(tile, r0 + tile * kLanes, 0);
    }
    return;
  }
  for (int64_t r0 = 0; r0 < num_rows; r0 += kLanes) {
    const QuadRows from{x.data + r0 * x.stride, x.stride};
    for (int64_t panel = 0; panel < num_panels; panel += 4) {
      const QuadWeights part{w.data + panel * w.panel_stride, w.panel_stride};
      const int64_t tiles = std::min<int64_t>(4, num_panels - panel);
      if (tiles == 4) {
        multiply_quads_across<4>(from, steps, part, dots);
      } else if (tiles == 3) {
        multiply_quads_across<3>(from, steps, part, dots);
      } else if (tiles == 2) {
        multiply_quads_across<2>(from, steps, part, dots);
      } else {
        multiply_quads_across<1>(from, steps, part, dots);
      }
      for (int64_t tile = 0; tile < tiles; ++tile) put(tile, r0, panel + tile);
    }
  }
}

#else

// All of [num_rows] x [num_panels * 16]: store_result(r, panel, I32x16). Rows of x up to the next multiple of 16, and of
// quads too, are read; beyond num_quads x or w holds zeros.
template <typename Store>
inline void multiply_quads(int64_t num_rows, QuadRows x, int64_t num_quads, QuadWeights w, int64_t num_panels,
                           Store&& store_result) {
  int64_t panel = 0;
  const auto run = [&]<int NUM_ROWS, int NUM_PANELS>(std::integral_constant<int, NUM_ROWS>,
                                                     std::integral_constant<int, NUM_PANELS>) {
    for (; panel + NUM_PANELS <= num_panels; panel += NUM_PANELS) {
      const QuadWeights part{w.data + panel * w.panel_stride, w.panel_stride,
                             w.starts != nullptr ? w.starts + panel * kLanes : nullptr};
      for (int64_t r0 = 0; r0 < num_rows; r0 += NUM_ROWS) {
        const auto put = [&](int r, int p, I32x16 value) { store_result(r0 + r, panel + p, value); };
        const int rows = static_cast<int>(std::min<int64_t>(NUM_ROWS, num_rows - r0));
        const QuadRows from{x.data + r0 * x.stride, x.stride};
        // A last tile of few rows: half of it.
        if (rows <= NUM_ROWS / 2) {
          multiply_quads_tile<NUM_ROWS / 2, NUM_PANELS>(rows, from, num_quads, part, put);
        } else {
          multiply_quads_tile<NUM_ROWS, NUM_PANELS>(rows, from, num_quads, part, put);
        }
      }
    }
  };
  if constexpr (kQuadPanels > 1)
    run(std::integral_constant<int, kQuadRows>{}, std::integral_constant<int, kQuadPanels>{});
  run(std::integral_constant<int, kQuadVectorRows>{}, std::integral_constant<int, 1>{});
}

#endif

}  // namespace sluice::cpu::SLUICE_ISA
