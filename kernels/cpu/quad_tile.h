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
#include <type_traits>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/simd_bytes.h"

namespace sluice::cpu::SLUICE_ISA {

constexpr int64_t kQuadBytes = 4 * kLanes;  // of one quad of one panel

struct QuadRows {
  const uint8_t* data;
  int64_t stride;  // bytes
};

struct QuadWeights {
  const int8_t* data;               // first panel
  int64_t panel_stride;             // bytes
  const int32_t* starts = nullptr;  // [panels][16], or null for zeros
};

#if defined(__AVX512F__)
// 8 x 2 accumulators (a panel of heads is two such), 2 weights and a broadcast, of 32 registers; 16 rows of a single
// panel, for as many chains.
constexpr int kQuadRows = 8;
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

// The matrix registers of this thread while it multiplies: 16 rows of x times 16 quads of a panel in one instruction.
class QuadTiles {
 public:
  QuadTiles() {
    AmxConfig config;
    for (int tile = 0; tile < 8; ++tile) config.set(tile, kLanes, kAmxTileBytes);
    amx_configure(config);
  }
  QuadTiles(const QuadTiles&) = delete;
  QuadTiles& operator=(const QuadTiles&) = delete;
  ~QuadTiles() { amx_release(); }
};

// Sums of NUM_TILES tiles that share one operand: of rows down one panel (DOWN), or of panels across 16 rows. Registers:
// sums 0-3, the others' operands 4 and 5 in turn, the shared one 6.
template <int NUM_TILES, bool DOWN>
inline void multiply_quad_tiles(QuadRows x, int64_t steps, QuadWeights w, int32_t (*dots)[kLanes][kLanes]) {
  const auto each_tile = [](auto&& body) {
    body(std::integral_constant<int, 0>{});
    if constexpr (NUM_TILES > 1) body(std::integral_constant<int, 1>{});
    if constexpr (NUM_TILES > 2) body(std::integral_constant<int, 2>{});
    if constexpr (NUM_TILES > 3) body(std::integral_constant<int, 3>{});
  };
  each_tile([](auto tile) { amx_zero<tile>(); });
  for (int64_t k = 0; k < steps; ++k) {
    const uint8_t* rows = x.data + k * kAmxTileBytes;
    const int8_t* quads = w.data + k * kLanes * kQuadBytes;
    if constexpr (DOWN) {
      amx_load<6>(quads, kQuadBytes);
    } else {
      amx_load<6>(rows, x.stride);
    }
    each_tile([&](auto tile) {
      constexpr int kOperand = 4 + tile % 2;
      if constexpr (DOWN) {
        amx_load<kOperand>(rows + tile * kLanes * x.stride, x.stride);
        amx_dot_u8s8<tile, kOperand, 6>();
      } else {
        amx_load<kOperand>(quads + tile * w.panel_stride, kQuadBytes);
        amx_dot_u8s8<tile, 6, kOperand>();
      }
    });
  }
  each_tile([&](auto tile) { amx_store<tile>(dots[tile], kAmxTileBytes); });
}

template <bool DOWN>
inline void multiply_quad_tiles(int64_t num_tiles, QuadRows x, int64_t steps, QuadWeights w,
                                int32_t (*dots)[kLanes][kLanes]) {
  if (num_tiles == 4) return multiply_quad_tiles<4, DOWN>(x, steps, w, dots);
  if (num_tiles == 3) return multiply_quad_tiles<3, DOWN>(x, steps, w, dots);
  if (num_tiles == 2) return multiply_quad_tiles<2, DOWN>(x, steps, w, dots);
  multiply_quad_tiles<1, DOWN>(x, steps, w, dots);
}

// As below; the thread holds a QuadTiles.
template <typename Store>
inline void multiply_quads(int64_t num_rows, QuadRows x, int64_t num_quads, QuadWeights w, int64_t num_panels,
                           Store&& store_result) {
  alignas(64) int32_t dots[4][kLanes][kLanes];
  const int64_t steps = (num_quads + kLanes - 1) / kLanes, row_tiles = (num_rows + kLanes - 1) / kLanes;
  const auto put = [&](int64_t tile, int64_t r0, int64_t panel) {
    const I32x16 start = w.starts != nullptr ? load_bytes(w.starts + panel * kLanes) : broadcast_i32(0);
    for (int64_t r = 0; r < std::min<int64_t>(kLanes, num_rows - r0); ++r)
      store_result(r0 + r, panel, load_bytes(dots[tile][r]) + start);
  };
  for (int64_t first = 0; first < row_tiles; first += num_panels == 1 ? 4 : 1) {
    const QuadRows from{x.data + first * kLanes * x.stride, x.stride};
    if (num_panels == 1) {
      const int64_t count = std::min<int64_t>(4, row_tiles - first);
      multiply_quad_tiles<true>(count, from, steps, w, dots);
      for (int64_t tile = 0; tile < count; ++tile) put(tile, (first + tile) * kLanes, 0);
      continue;
    }
    for (int64_t panel = 0; panel < num_panels; panel += 4) {
      const int64_t count = std::min<int64_t>(4, num_panels - panel);
      multiply_quad_tiles<false>(count, from, steps, {w.data + panel * w.panel_stride, w.panel_stride}, dots);
      for (int64_t tile = 0; tile < count; ++tile) put(tile, first * kLanes, panel + tile);
    }
  }
}

#else

struct QuadTiles {
  QuadTiles() {}  // nothing to hold
};

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
