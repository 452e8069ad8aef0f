// Products of bf16 operands on AMX: 16 rows x 16 lanes x 16 pairs in one instruction, eight times the rate of dot2.
//
//   y [16 rows][lanes] = x [16 rows][pairs] times w [pairs][lanes][2]
//
// The order of the sum is TDPBF16PS' own (even and odd inputs of 16 pairs apart, then together, then onto the sum), so the
// bits are not those of pair_tile.h; they are the same for a row whatever rows stand beside it.
#pragma once

#if defined(__AMX_BF16__)

#include <algorithm>

#include "kernels/cpu/amx.h"
#include "kernels/cpu/pair_tile.h"

namespace sluice::cpu::SLUICE_ISA {

constexpr int64_t kAmxPairs = 16;   // of one step
constexpr int64_t kAmxPanels = 4;  // sums at a time

inline int64_t amx_steps(int64_t pairs) { return (pairs + kAmxPairs - 1) / kAmxPairs; }

// Where a tile's 16 rows lie; all 16 must be readable, whether anybody wants their sums or not. Strides in bytes.
struct AmxPairRows {
  const void* data;
  int64_t row_stride;
  int64_t step_stride;  // from 16 pairs to the next
};
// Rows as a matrix has them, and 1 KiB blocks of [16 rows][16 pairs].
inline AmxPairRows plain_rows(const uint16_t* data, int64_t row_elements) { return {data, row_elements * 2, 64}; }
inline AmxPairRows blocked_rows(const uint16_t* data) { return {data, 64, 1024}; }

// Holds the tile registers of this thread: sums 0-3; x 4 and w 5, and for a last step of fewer pairs 6 and 7.
class AmxPairs {
 public:
  AmxPairs() = default;
  AmxPairs(const AmxPairs&) = delete;
  AmxPairs& operator=(const AmxPairs&) = delete;
  ~AmxPairs() { amx_release(); }

  // y [16][num_panels * 16], rows y_stride floats apart.
  void multiply(AmxPairRows x, int64_t num_pairs, PairWeights w, int64_t num_panels, float* y, int64_t y_stride) {
    configure(num_pairs % kAmxPairs);
    int64_t panel = 0;
    for (; panel + kAmxPanels <= num_panels; panel += kAmxPanels)
      run<4>(x, num_pairs, {w.data + panel * w.panel_stride, w.panel_stride}, y + panel * kLanes, y_stride);
    const PairWeights rest{w.data + panel * w.panel_stride, w.panel_stride};
    if (num_panels - panel == 3) run<3>(x, num_pairs, rest, y + panel * kLanes, y_stride);
    if (num_panels - panel == 2) run<2>(x, num_pairs, rest, y + panel * kLanes, y_stride);
    if (num_panels - panel == 1) run<1>(x, num_pairs, rest, y + panel * kLanes, y_stride);
  }

 private:
  void configure(int64_t tail) {
    if (tail == tail_) return;
    tail_ = tail;
    AmxConfig config;
    for (int i = 0; i < 6; ++i) config.set(i, 16, kAmxTileBytes);
    if (tail > 0) {
      config.set(6, 16, tail * 4);
      config.set(7, tail, kAmxTileBytes);
    }
    amx_configure(config);
  }

  template <int PANELS>
  static void run(AmxPairRows x, int64_t num_pairs, PairWeights w, float* y, int64_t y_stride) {
    amx_zero<0>();
    if constexpr (PANELS > 1) amx_zero<1>();
    if constexpr (PANELS > 2) amx_zero<2>();
    if constexpr (PANELS > 3) amx_zero<3>();
    const auto* rows = static_cast<const std::byte*>(x.data);
    const uint16_t* weights = w.data;
    int64_t left = num_pairs;
    for (; left >= kAmxPairs; left -= kAmxPairs, rows += x.step_stride, weights += kAmxPairs * kPairElements)
      step<PANELS, 4, 5>(rows, x.row_stride, weights, w.panel_stride);
    if (left > 0) step<PANELS, 6, 7>(rows, x.row_stride, weights, w.panel_stride);
    amx_store<0>(y, y_stride * 4);
    if constexpr (PANELS > 1) amx_store<1>(y + kLanes, y_stride * 4);
    if constexpr (PANELS > 2) amx_store<2>(y + 2 * kLanes, y_stride * 4);
    if constexpr (PANELS > 3) amx_store<3>(y + 3 * kLanes, y_stride * 4);
  }

  template <int PANELS, int X, int W>
  static void step(const void* rows, int64_t row_stride, const uint16_t* weights, int64_t panel_stride) {
    amx_load<X>(rows, row_stride);
    amx_load<W>(weights, kAmxTileBytes);
    amx_dot_bf16<0, X, W>();
    if constexpr (PANELS > 1) {
      amx_load<W>(weights + panel_stride, kAmxTileBytes);
      amx_dot_bf16<1, X, W>();
    }
    if constexpr (PANELS > 2) {
      amx_load<W>(weights + 2 * panel_stride, kAmxTileBytes);
      amx_dot_bf16<2, X, W>();
    }
    if constexpr (PANELS > 3) {
      amx_load<W>(weights + 3 * panel_stride, kAmxTileBytes);
      amx_dot_bf16<3, X, W>();
    }
  }

  int64_t tail_ = -1;
};

// A panel of weights [pairs][16 lanes][2] the other way round, its lanes as rows: blocks [16 lanes][16 pairs] of
// blocked_rows(), the last one filled up with zeros.
inline void block_lanes(const uint16_t* panel, int64_t num_pairs, uint16_t* blocks) {
  for (int64_t pair = 0; pair < num_pairs; pair += kAmxPairs, blocks += kAmxPairs * kPairElements) {
    const uint16_t* from = panel + pair * kPairElements;
    alignas(64) uint16_t last[kAmxPairs * kPairElements];
    if (num_pairs - pair < kAmxPairs) {
      std::fill(std::begin(last), std::end(last), uint16_t{0});
      std::copy_n(from, (num_pairs - pair) * kPairElements, last);
      from = last;
    }
    transpose_rows(from, kAmxPairs, blocks);
  }
}

}  // namespace sluice::cpu::SLUICE_ISA

#endif
