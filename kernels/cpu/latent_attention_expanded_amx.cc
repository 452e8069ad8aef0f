// Attention of prompt tokens over a bf16 or int8 cache on AMX: the stages and roundings of
// latent_attention_expanded_bf16.cc, 16 rows at a time, with the order of sums of pair_amx.h. What the tiles read:
//
//   C^T  [4 key panels][width / 2 pairs][16 keys]           the page, transposed by 32-bit pairs
//   K_h  [nope panels] blocks of [16 dims][16 pairs]        once per head; as rows, so that K^T comes out dims by keys:
//   K    [4 key panels][(nope + rope) / 2 pairs][16 keys]   two rows of K^T and one of pairs; the rotary part is C^T's
//   V    [v panels][32 key pairs][16 values]                rows of C times V_h^T, two keys and one row of pairs
#include "kernels/cpu/backend.h"
#include "kernels/cpu/latent_attention_expanded_pairs.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/pair_amx.h"

#if defined(__AMX_BF16__)

namespace sluice::cpu::SLUICE_ISA {

namespace {

using namespace expanded;

// Two rows of a product [16][num_panels * 16] become one row of pairs: row 2 i and 2 i + 1 of panel p go to
// out + p * panel_stride + i * 32.
void store_pairs(const float* product, int64_t product_stride, int64_t num_rows, int64_t num_panels, uint16_t* out,
                 int64_t panel_stride) {
  for (int64_t p = 0; p < num_panels; ++p) {
    for (int64_t r = 0; r < num_rows; r += 2) {
      const float* from = product + r * product_stride + p * kLanes;
      store_bytes(out + p * panel_stride + r / 2 * kPairElements,
                  pair_bf16(load(from), r + 1 < num_rows ? load(from + product_stride) : zero()));
    }
  }
}

struct AmxKernel {
  static constexpr int64_t kRows = 16;

  RowMemory rows;  // tiles read 16 rows wherever they begin
  int64_t nope_panels, block_panel;
  uint16_t* transposed;  // C^T
  uint16_t* key_rows;    // K_h
  uint16_t* keys;        // K
  uint16_t* values;      // V
  float* product;        // [16, max(64, v_stride)]
  uint16_t* weights;     // [16, 64] the probabilities in bf16
  AmxPairs tiles;

  AmxKernel(Carver& carver, const Dims& dims, int64_t max_rows)
      : rows(carver, dims, max_rows, kRows - 1),
        nope_panels((dims.nope_pairs * 2 + kLanes - 1) / kLanes),
        block_panel(amx_steps(dims.latent_pairs) * kAmxPairs * kPairElements),
        transposed(carver.take<uint16_t>(kTileKeys * dims.width())),
        key_rows(carver.take<uint16_t>(nope_panels * block_panel)),
        keys(carver.take<uint16_t>(kTileKeys * dims.key_pairs() * 2)),
        values(carver.take<uint16_t>(kTileKeys * dims.v_stride)),
        product(carver.take<float>(kRows * std::max<int64_t>(kTileKeys, dims.v_stride))),
        weights(carver.take<uint16_t>(kRows * kTileKeys)) {}

  void begin_head(const HeadSpan& at) {
    const PairWeights k_up = pair_panels(at.args.k_up[static_cast<size_t>(at.head)]);
    for (int64_t panel = 0; panel < nope_panels; ++panel)
      block_lanes(k_up.data + panel * k_up.panel_stride, at.dims.latent_pairs, key_rows + panel * block_panel);
  }

  void expand(const HeadSpan& at, const uint16_t* entries) {
    expand_keys(at, entries);
    expand_values(at, entries);
  }

  // Folds the tile into rows [row0, row0 + num_rows) of the span, at most 16.
  void attend(const HeadSpan& at, int32_t tile_begin, int64_t row0, int64_t num_rows) {
    const int64_t stride = at.dims.query_stride(), v_stride = at.dims.v_stride;
    tiles.multiply(plain_rows(rows.queries + row0 * stride, stride), at.dims.key_pairs(),
                   {keys, at.dims.key_pairs() * kPairElements}, kKeyPanels, product, kTileKeys);
    float alpha[kRows];
    for (int64_t r = 0; r < num_rows; ++r)
      alpha[r] = soften_row(at, rows, row0 + r, tile_begin, product + r * kTileKeys, weights + r * kTileKeys);
    tiles.multiply(plain_rows(weights, kTileKeys), kTileKeys / 2, {values, kTileKeys * kLanes}, v_stride / kLanes,
                   product, v_stride);
    for (int64_t r = 0; r < num_rows; ++r) {
      float* out = rows.out + (row0 + r) * v_stride;
      for (int64_t i = 0; i < v_stride; i += kLanes)
        store(out + i, fma(load(out + i), broadcast(alpha[r]), load(product + r * v_stride + i)));
    }
  }

 private:
  void expand_keys(const HeadSpan& at, const uint16_t* entries) {
    const Dims& dims = at.dims;
    const int64_t pairs = dims.width_pairs();
    for (int64_t panel = 0; panel < kKeyPanels; ++panel)
      transpose_rows(entries + panel * kLanes * pairs * 2, pairs, transposed + panel * pairs * kPairElements);
    for (int64_t panel = 0; panel < nope_panels; ++panel) {
      tiles.multiply(blocked_rows(key_rows + panel * block_panel), dims.latent_pairs,
                     {transposed, pairs * kPairElements}, kKeyPanels, product, kTileKeys);
      store_pairs(product, kTileKeys, std::min<int64_t>(kLanes, at.args.nope_dim - panel * kLanes), kKeyPanels,
                  keys + panel * kLanes / 2 * kPairElements, dims.key_pairs() * kPairElements);
    }
    copy_rotary(dims, transposed, keys);
  }

  void expand_values(const HeadSpan& at, const uint16_t* entries) {
    const int64_t width = at.dims.width(), v_stride = at.dims.v_stride;
    for (int64_t key = 0; key < kTileKeys; key += kRows) {
      tiles.multiply(plain_rows(entries + key * width, width), at.dims.latent_pairs,
                     pair_panels(at.args.v_up[static_cast<size_t>(at.head)]), v_stride / kLanes, product, v_stride);
      store_pairs(product, v_stride, kRows, v_stride / kLanes, values + key * kLanes, kTileKeys * kLanes);
    }
  }
};

}  // namespace

void latent_attention_expanded_bf16(const LatentAttentionArgs& args, OpContext& context) {
  attend_all<AmxKernel>(args, context);
}

}  // namespace sluice::cpu::SLUICE_ISA

#endif
