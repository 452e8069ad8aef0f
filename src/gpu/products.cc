#include "gpu/products.h"

#include <algorithm>

namespace sluice {

namespace {

int64_t blocks_of(int64_t n) { return (n + cuda::kGemmBlockN - 1) / cuda::kGemmBlockN; }

// The splits that a step with the fewest tiles wants: those of `matrices` that one token multiplies.
int32_t splits_of(int64_t n, int64_t k, int32_t group, int32_t matrices, int32_t multiprocessors) {
  cuda::GemmConfig config = cuda::choose_gemm_config(1, 1, static_cast<int32_t>(n), static_cast<int32_t>(k), group,
                                                     std::max(1, multiprocessors / matrices), true);
  return config.splits;
}

int32_t tile_rows_of(int64_t rows, int32_t experts) {
  return cuda::choose_gemm_config(rows, experts, 16, cuda::kGemmStep, 0, 1, true).tile_rows;
}

Products::Needs needs_of(int64_t tiles, int64_t tile_rows, int64_t n, int32_t splits) {
  if (splits == 1) return {};
  const int64_t counters = tiles * blocks_of(n);
  return {.values = counters * splits * tile_rows * cuda::kGemmBlockN, .counters = counters};
}

// The most over all steps of up to `rows` rows. Between two changes of the tile's size more rows need no less, so the
// last number of rows of each size says it all.
template <typename NeedsOf>
Products::Needs most(int64_t rows, int32_t experts, NeedsOf&& needs) {
  Products::Needs result;
  for (const int64_t mean : {8, 16, 32}) result.cover(needs(std::min(rows, mean * experts)));
  result.cover(needs(rows));
  return result;
}

}  // namespace

void Products::Needs::cover(const Needs& other) {
  values = std::max(values, other.values);
  counters = std::max(counters, other.counters);
}

Products::Needs Products::dense_needs(const CudaMatrixShape& shape, int64_t rows, int32_t multiprocessors) {
  const int32_t splits = splits_of(shape.n, shape.k, shape.group, 1, multiprocessors);
  return most(rows, 1, [&](int64_t count) {
    const int32_t tile = tile_rows_of(count, 1);
    return needs_of((count + tile - 1) / tile, tile, shape.n, splits);
  });
}

Products::Needs Products::grouped_needs(const CudaMatrixShape& shape, int64_t rows, int32_t top_k, int32_t experts,
                                        int32_t multiprocessors) {
  const int32_t splits = splits_of(shape.n, shape.k, shape.group, top_k, multiprocessors);
  return most(rows * top_k, experts, [&](int64_t pairs) {
    const int32_t tile = tile_rows_of(pairs, experts);
    return needs_of(cuda::max_tiles(pairs, experts, tile), tile, shape.n, splits);
  });
}

int32_t Products::grouped_tile_rows(int64_t pairs, int32_t experts) { return tile_rows_of(pairs, experts); }

void Products::run(cuda::GemmParams params, const cuda::GemmConfig& config, const DeviceMatrices& weights) const {
  params.weights = weights.codes;
  params.scales = weights.scales;
  params.n = weights.n;
  params.k = weights.k;
  params.x_cols = weights.x_cols;
  params.group = weights.group;
  const int64_t values = cuda::workspace_values(params, config), counters = cuda::num_counters(params, config);
  SLUICE_CHECK(values <= room_.values && counters <= room_.counters, "values={} of {} counters={} of {}", values,
               room_.values, counters, room_.counters);
  params.workspace = workspace_;
  params.counters = counters_;
  if (weights.group == 0) {
    cuda::bf16_gemm(params, config, stream_);
  } else {
    cuda::int4_gemm(params, config, stream_);
  }
}

void Products::dense(const cuda::bf16* x, int32_t x_stride, int32_t rows, const DeviceMatrices& weights,
                     cuda::bf16* y) const {
  run({.x = x, .y = y, .rows = rows, .x_stride = x_stride, .y_stride = weights.n},
      {.tile_rows = tile_rows_of(rows, 1),
       .splits = splits_of(weights.n, weights.k, weights.group, 1, multiprocessors_)},
      weights);
}

void Products::dense_f32(const cuda::bf16* x, int32_t x_stride, int32_t rows, const DeviceMatrices& weights,
                         float* y) const {
  run({.x = x, .y_f32 = y, .rows = rows, .x_stride = x_stride, .y_stride = weights.n},
      {.tile_rows = tile_rows_of(rows, 1),
       .splits = splits_of(weights.n, weights.k, weights.group, 1, multiprocessors_)},
      weights);
}

void Products::by_heads(const cuda::bf16* x, int32_t x_stride, int32_t tokens, const DeviceMatrices& weights,
                        cuda::bf16* y, int32_t y_stride) const {
  run({.x = x, .y = y, .rows = tokens, .heads = weights.count, .x_stride = x_stride, .y_stride = y_stride},
      {.tile_rows = tile_rows_of(tokens, 1), .splits = 1}, weights);
}

void Products::grouped(const cuda::bf16* x, int32_t x_stride, const ExpertRows& rows, const DeviceMatrices& weights,
                       cuda::bf16* y) const {
  run({.x = x,
       .row_ids = rows.row_ids,
       .y = y,
       .rows = rows.pairs,
       .x_stride = x_stride,
       .y_stride = weights.n,
       .tiles = rows.tiles,
       .num_tiles = rows.num_tiles,
       .max_tiles = rows.max_tiles},
      {.tile_rows = rows.tile_rows,
       .splits = splits_of(weights.n, weights.k, weights.group, rows.top_k, multiprocessors_)},
      weights);
}

}  // namespace sluice
