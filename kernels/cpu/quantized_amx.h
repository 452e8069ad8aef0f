// Many rows of quantised products on AMX: 16 x 16 sums over 64 codes are one instruction. The same integers inside a
// group and the same f32 operations between groups as quantized.h, so the bits are equal and a product may change over
// at any number of rows.
//
//   rows in tiles:  codes [tile][cols / chunk][16 rows][chunk]   chunk = min(group, 64): one tile register of 16 rows
//                   scales [tile][groups][16 rows]               rows that fill up the last tile are zeros
//   weights:        K pieces of up to 512 inputs, 4 panels (one block) at a time, are unpacked into L1 as signed codes
//                   less their zero point, [panel][512 / 4][16 outputs][4]: chunk / 4 lines are one tile register
//
//   for piece of K:  unpack 4 panels;  for tile of rows, for panel:   acc[16] (registers) += groups of the piece
//
// A tile register is read through memory, and TDPBSSD takes 52 cycles; four groups are on their way while the four
// before them are scaled. With groups of 32 the scaling (16 rows of convert, multiply, FMA: 24 cycles a group at two a
// cycle) bounds the rate, not the tiles (16 cycles).
#pragma once

#include <algorithm>
#include <limits>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/carver.h"
#include "kernels/cpu/quantized.h"

namespace sluice::cpu::SLUICE_ISA {

#if defined(__AMX_INT8__)
// Products of fewer rows stay with the dot-product instruction, which reads weights in one stream without unpacking.
constexpr int64_t kAmxMinRows = 6;
#else
constexpr int64_t kAmxMinRows = std::numeric_limits<int64_t>::max();
#endif
constexpr int64_t kAmxRows = 16;
constexpr int64_t kAmxPiece = 256;  // inputs; a multiple of every group
constexpr int64_t kAmxMaxGroups = kAmxPiece / 32;
constexpr int kAmxFlight = 4;  // groups at most whose sums are not scaled yet

inline int64_t amx_chunk(int32_t group) { return std::min<int64_t>(group, 64); }
inline int64_t amx_tiles(int64_t rows) { return rows < kAmxMinRows ? 0 : (rows + kAmxRows - 1) / kAmxRows; }

// Activations as the tile registers read them; in scratch memory.
struct AmxRows {
  int64_t cols = 0;
  int32_t group = 0;
  int8_t* codes = nullptr;
  float* scales = nullptr;

  AmxRows() = default;
  AmxRows(Carver& carver, const QuantizedShape& shape, int64_t tiles)
      : cols(shape.cols),
        group(shape.group),
        codes(carver.take<int8_t>(tiles * kAmxRows * shape.cols)),
        scales(carver.take<float>(tiles * kAmxRows * shape.groups())) {}

  // Rows row(0) ... row(count - 1) become one tile.
  template <typename Row>
  void fill(int64_t tile, int64_t count, Row&& row) const {
    const int64_t chunk = amx_chunk(group), groups = cols / group;
    int8_t* to = codes + tile * kAmxRows * cols;
    float* to_scales = scales + tile * kAmxRows * groups;
    for (int64_t r = 0; r < kAmxRows; ++r) {
      if (r >= count) {
        for (int64_t k = 0; k < cols; k += chunk) std::memset(to + k * kAmxRows + r * chunk, 0, static_cast<size_t>(chunk));
        for (int64_t g = 0; g < groups; ++g) to_scales[g * kAmxRows + r] = 0;
        continue;
      }
      const QuantizedRowView from = row(r);
      for (int64_t k = 0; k < cols; k += chunk)
        std::memcpy(to + k * kAmxRows + r * chunk, from.codes + k, static_cast<size_t>(chunk));
      for (int64_t g = 0; g < groups; ++g) to_scales[g * kAmxRows + r] = from.scales[g];
    }
  }
};

#if defined(__AMX_INT8__)

// Sums in registers 0-3, rows in 4 and 6, weights in 5 and 7.
inline AmxConfig product_config(int64_t rows, int64_t chunk) {
  AmxConfig config;
  for (int i = 0; i < kAmxFlight; ++i) config.set(i, rows, kAmxTileBytes);
  for (int i : {4, 6}) config.set(i, rows, chunk);
  for (int i : {5, 7}) config.set(i, chunk / 4, kAmxTileBytes);
  return config;
}

// One thread's copy of the weights at hand.
struct alignas(64) AmxPiece {
  int8_t codes[kBlockPanels][kAmxPiece * kLanes];
  float scales[kBlockPanels][kAmxMaxGroups * kLanes];
};

// Groups [group, group + count) of a block of WIDTH panels.
template <int BITS, int WIDTH>
inline void unpack_piece(const QuantizedShape& shape, const std::byte* block, int64_t group, int64_t count,
                         AmxPiece& piece) {
  constexpr int64_t width = WIDTH;
  const std::byte* step = block + group * shape.group_bytes(width);
  constexpr int64_t kStepInputs = 32 / BITS;
  const int64_t steps = shape.group / kStepInputs;
  for (int64_t g = 0; g < count; ++g) {
    const std::byte* scales = step + shape.code_bytes(width);
    I32x16 excess[kBlockPanels];
    for (int64_t p = 0; p < width; ++p) {
      store(piece.scales[p] + g * kLanes, load_f16(reinterpret_cast<const uint16_t*>(scales) + p * kLanes));
      excess[p] = broadcast_i32(BITS == 4 ? 0x08080808 : static_cast<int32_t>(0x80808080));
      if (shape.zero_points) excess[p] = load_u8(scales + (width * 2 + p) * kLanes) * broadcast_i32(0x01010101);
    }
    for (int64_t s = 0; s < steps; ++s, step += width * 64) {
#pragma GCC unroll 4
      for (int64_t p = 0; p < width; ++p) {
        const I32x16 bytes = load_bytes(step + p * 64);
        int8_t* to = piece.codes[p] + (g * shape.group + s * kStepInputs) * kLanes;
        if constexpr (BITS == 4) {
          store_bytes(to, sub_bytes(low_nibbles(bytes), excess[p]));
          store_bytes(to + 64, sub_bytes(high_nibbles(bytes), excess[p]));
        } else {
          store_bytes(to, sub_bytes(bytes, excess[p]));
        }
      }
    }
    step += shape.group_bytes(width) - shape.code_bytes(width);
  }
}

// Sums of a group into `dots` [rows][16] by way of tile register SUM.
template <int SUM, int GROUP>
inline void amx_group(const int8_t* x, const int8_t* w, int32_t* dots) {
  constexpr int64_t chunk = GROUP == 32 ? 32 : 64;
  amx_zero<SUM>();
  amx_load<4>(x, chunk);
  amx_load<5>(w, kAmxTileBytes);
  amx_dot_s8<SUM, 4, 5>();
  if constexpr (GROUP == 128) {
    amx_load<6>(x + chunk * kAmxRows, chunk);
    amx_load<7>(w + chunk * kLanes, kAmxTileBytes);
    amx_dot_s8<SUM, 6, 7>();
  }
  amx_store<SUM>(dots, kAmxTileBytes);
}

// acc [NUM_ROWS] += groups [0, count) of a tile of rows times a panel. A group's sums are scaled two groups after their
// tile instructions went off. `fetch` lines of `next` a group come into L2 meanwhile.
template <int NUM_ROWS, int GROUP>
inline void amx_panel(const int8_t* x, const float* x_scales, const int8_t* w, const float* w_scales, int64_t count,
                      const std::byte* next, int64_t fetch, F32x16* acc) {
  constexpr int64_t kLag = 2;
  alignas(64) int32_t dots[kAmxFlight][NUM_ROWS * kLanes];
  F32x16 sums[NUM_ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < NUM_ROWS; ++r) sums[r] = acc[r];
  const auto step = [&]<int SUM>(std::integral_constant<int, SUM>, int64_t g) __attribute__((always_inline)) {
    if (g < count) amx_group<SUM, GROUP>(x + g * GROUP * kAmxRows, w + g * GROUP * kLanes, dots[SUM]);
    for (int64_t i = 0; i < fetch; ++i, next += 64) _mm_prefetch(next, _MM_HINT_T1);
    if (g < kLag || g >= count + kLag) return;
    const int32_t* from = dots[(SUM + kAmxFlight - kLag) % kAmxFlight];
    const float* scales = x_scales + (g - kLag) * kAmxRows;
    const F32x16 w_scale = load(w_scales + (g - kLag) * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < NUM_ROWS; ++r)
      sums[r] = fma(to_f32(load_bytes(from + r * kLanes)), w_scale * broadcast(scales[r]), sums[r]);
  };
  for (int64_t g = 0; g < count + kLag; g += kAmxFlight) {
    step(std::integral_constant<int, 0>{}, g);
    step(std::integral_constant<int, 1>{}, g + 1);
    step(std::integral_constant<int, 2>{}, g + 2);
    step(std::integral_constant<int, 3>{}, g + 3);
  }
#pragma GCC unroll 16
  for (int r = 0; r < NUM_ROWS; ++r) acc[r] = sums[r];
}

template <int NUM_ROWS>
inline void amx_panel(int32_t group, const int8_t* x, const float* x_scales, const int8_t* w, const float* w_scales,
                      int64_t count, const std::byte* next, int64_t fetch, F32x16* acc) {
  if (group == 32) return amx_panel<NUM_ROWS, 32>(x, x_scales, w, w_scales, count, next, fetch, acc);
  if (group == 64) return amx_panel<NUM_ROWS, 64>(x, x_scales, w, w_scales, count, next, fetch, acc);
  amx_panel<NUM_ROWS, 128>(x, x_scales, w, w_scales, count, next, fetch, acc);
}

// [num_rows] x panels [panel_begin, panel_end), as multiply_quantized_block; the rows are tiles [first_tile, ...) of x.
template <int BITS, typename Store>
inline void multiply_quantized_amx(const AmxRows& x, int64_t first_tile, int64_t num_rows, const QuantizedShape& shape,
                                   const std::byte* data, int64_t panel_begin, int64_t panel_end,
                                   Store&& store_result) {
  constexpr int64_t kPassTiles = 16;  // their sums of 4 panels are 64 KiB, in L2
  const int64_t groups = shape.groups(), piece_groups = kAmxPiece / shape.group;
  AmxPiece piece;
  alignas(64) F32x16 acc[kPassTiles][kBlockPanels][kAmxRows];
  const int last_rows = static_cast<int>((num_rows - 1) % kAmxRows + 1);
  const int last_config = (last_rows + 3) / 4 * 4;
  const AmxConfig full = product_config(kAmxRows, amx_chunk(shape.group));
  const AmxConfig partial = product_config(last_config, amx_chunk(shape.group));
  const int64_t num_tiles = (num_rows + kAmxRows - 1) / kAmxRows;
  for (int64_t first = panel_begin; first < panel_end; first += kBlockPanels) {
    const int64_t width = std::min<int64_t>(kBlockPanels, panel_end - first);
    const std::byte* block = data + first / kBlockPanels * shape.block_bytes(kBlockPanels);
    for (int64_t tile0 = 0; tile0 < num_tiles; tile0 += kPassTiles) {
      const int64_t tiles = std::min(kPassTiles, num_tiles - tile0);
      for (int64_t group = 0; group < groups; group += piece_groups) {
        const int64_t count = std::min(piece_groups, groups - group);
        const auto unpack = width == 4   ? unpack_piece<BITS, 4>
                            : width == 3 ? unpack_piece<BITS, 3>
                            : width == 2 ? unpack_piece<BITS, 2>
                                         : unpack_piece<BITS, 1>;
        unpack(shape, block, group, count, piece);
        // The next piece comes from memory while this one is multiplied.
        const std::byte* next = block + (group + count) * shape.group_bytes(width);
        const int64_t sends = tiles * width * count;
        const int64_t fetch = (count * shape.group_bytes(width) / 64 + sends - 1) / sends;
        for (int64_t t = 0; t < tiles; ++t) {
          const bool whole = tile0 + t + 1 < num_tiles || last_config == kAmxRows;
          if (t == 0 || !whole) amx_configure(whole ? full : partial);
          const int8_t* codes = x.codes + (first_tile + tile0 + t) * kAmxRows * x.cols + group * x.group * kAmxRows;
          const float* scales = x.scales + ((first_tile + tile0 + t) * groups + group) * kAmxRows;
          for (int64_t p = 0; p < width; ++p) {
            F32x16* sums = acc[t][p];
            if (group == 0) std::fill_n(sums, kAmxRows, zero());
            const auto run = [&]<int ROWS>(std::integral_constant<int, ROWS>) {
              amx_panel<ROWS>(shape.group, codes, scales, piece.codes[p], piece.scales[p], count, next, fetch,
                              sums);
            };

            if (whole) {
              run(std::integral_constant<int, 16>{});
            } else if (last_config == 12) {
              run(std::integral_constant<int, 12>{});
            } else if (last_config == 8) {
              run(std::integral_constant<int, 8>{});
            } else {
              run(std::integral_constant<int, 4>{});
            }
            next += fetch * count * 64;
          }
        }
      }
      for (int64_t r = tile0 * kAmxRows; r < std::min(num_rows, (tile0 + tiles) * kAmxRows); ++r)
        for (int64_t p = 0; p < width; ++p)
          store_result(r, first - panel_begin + p, acc[r / kAmxRows - tile0][p][r % kAmxRows]);
    }
  }
  amx_release();
}

#endif

}  // namespace sluice::cpu::SLUICE_ISA
