// Attention of prompt tokens over a bf16 or int8 cache: the stages of latent_attention_expanded.cc with bf16 operands
// and f32 sums (latent_attention_expanded_pairs.h has the walk). Keys and values are expanded straight into the pair
// layout that the next product reads (pair_tile.h):
//
//   C^T  [4 key panels][width / 2 pairs][16 keys]          the page, transposed by 32-bit pairs
//   K    [4 key panels][(nope + rope) / 2 pairs][16 keys]  rows of K_h times C^T; the rotary part is C^T's own
//   V    [v panels][32 key pairs][16 values]               rows of C times V_h^T
//   S = q K^T * scale, P = exp(S - max) rounded to bf16, O = O * alpha + P V          12 rows at a time
//
// What is rounded: q, K, V and P; the normalising sums take P before its rounding.
#include "kernels/cpu/backend.h"
#include "kernels/cpu/latent_attention_expanded_pairs.h"
#include "kernels/cpu/matmul.h"

#if !defined(__AMX_BF16__)  // latent_attention_expanded_amx.cc

namespace sluice::cpu::SLUICE_ISA {

namespace {

using namespace expanded;

struct PairKernel {
  static constexpr int64_t kRows = kPairRows;

  RowMemory rows;
  uint16_t* transposed;  // [4 panels][width pairs][16 keys][2]
  uint16_t* keys;        // [4 panels][key pairs][16 keys][2]
  uint16_t* values;      // [v panels][32][16 values][2]
  float* scores;         // [kRows, 64]
  uint16_t* weights;     // [kRows, 64] the probabilities in bf16

  PairKernel(Carver& carver, const Dims& dims, int64_t max_rows)
      : rows(carver, dims, max_rows, 0),
        transposed(carver.take<uint16_t>(kTileKeys * dims.width())),
        keys(carver.take<uint16_t>(kTileKeys * dims.key_pairs() * 2)),
        values(carver.take<uint16_t>(kTileKeys * dims.v_stride)),
        scores(carver.take<float>(kRows * kTileKeys)),
        weights(carver.take<uint16_t>(kRows * kTileKeys)) {}

  void begin_head(const HeadSpan&) {}

  void expand(const HeadSpan& at, const uint16_t* entries) {
    const int64_t pairs = at.dims.width_pairs();
    for (int64_t panel = 0; panel < kKeyPanels; ++panel)
      transpose_rows(entries + panel * kLanes * pairs * 2, pairs, transposed + panel * pairs * kPairElements);
    expand_keys(at);
    multiply_into_pairs(
        kTileKeys, [&](int64_t key) { return entries + key * at.dims.width(); }, 2, at.dims.latent_pairs,
        pair_panels(at.args.v_up[static_cast<size_t>(at.head)]), at.dims.v_stride / kLanes, values, kTileKeys * kLanes);
  }

  // Folds the tile into rows [row0, row0 + num_rows) of the span.
  void attend(const HeadSpan& at, int32_t tile_begin, int64_t row0, int64_t num_rows) {
    const int64_t stride = at.dims.query_stride(), v_stride = at.dims.v_stride;
    multiply_pairs(
        num_rows, [&](int64_t r) { return rows.queries + (row0 + r) * stride; }, 2, at.dims.key_pairs(),
        {keys, at.dims.key_pairs() * kPairElements}, kKeyPanels,
        [&](int64_t r, int64_t p, F32x16 value) { store(scores + r * kTileKeys + p * kLanes, value); });
    float alpha[kRows];
    for (int64_t r = 0; r < num_rows; ++r)
      alpha[r] = soften_row(at, rows, row0 + r, tile_begin, scores + r * kTileKeys, weights + r * kTileKeys);
    multiply_pairs(
        num_rows, [&](int64_t r) { return weights + r * kTileKeys; }, 2, kTileKeys / 2, {values, kTileKeys * kLanes},
        v_stride / kLanes,
        [&](int64_t r, int64_t p, F32x16 value) {
          float* out = rows.out + (row0 + r) * v_stride + p * kLanes;
          store(out, fma(load(out), broadcast(alpha[r]), value));
        });
  }

 private:
  void expand_keys(const HeadSpan& at) {
    const PairWeights k_up = pair_panels(at.args.k_up[static_cast<size_t>(at.head)]);
    // Row d of K_h lies in lane d % 16 of its panel.
    const auto row = [&](int64_t d) { return k_up.data + d / kLanes * k_up.panel_stride + d % kLanes * 2; };
    multiply_into_pairs(at.args.nope_dim, row, kPairElements, at.dims.latent_pairs,
                        {transposed, at.dims.width_pairs() * kPairElements}, kKeyPanels, keys,
                        at.dims.key_pairs() * kPairElements);
    copy_rotary(at.dims, transposed, keys);
  }
};

}  // namespace

void latent_attention_expanded_bf16(const LatentAttentionArgs& args, OpContext& context) {
  attend_all<PairKernel>(args, context);
}

}  // namespace sluice::cpu::SLUICE_ISA

#endif
