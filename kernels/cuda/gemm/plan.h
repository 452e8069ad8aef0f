// Which configuration a product runs with, and the memory that it needs; pure functions on the host.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/gemm/gemm.h"

namespace sluice::cuda {

// Tokens of a tile: the least that holds an expert's mean; their number does not touch a row's bits.
// Splits: two blocks for every multiprocessor, but at least 256 inputs each, below which the pipeline never fills. With
// `deterministic`, as many as a single tile would need, whatever the number of rows: then the bits of a row do not
// depend on its neighbours. It costs large batches the traffic of partial sums (8 bytes a split and output, against 2).
inline GemmConfig choose_gemm_config(int64_t rows, int32_t experts, int32_t n, int32_t k, int32_t group,
                                     int32_t multiprocessors, bool deterministic) {
  GemmConfig config;
  const int64_t mean = (rows + experts - 1) / experts;
  config.tile_rows = mean <= 8 ? 8 : mean <= 16 ? 16 : mean <= 32 ? 32 : 64;
  const int64_t blocks_n = (n + kGemmBlockN - 1) / kGemmBlockN;
  const int64_t tiles = deterministic ? 1 : std::max<int64_t>(1, max_tiles(rows, experts, config.tile_rows));
  constexpr int32_t kMinInputs = 256;
  const int64_t unit = std::max(std::max(group, kGemmStep), kMinInputs);
  const int64_t wanted = 2 * int64_t{multiprocessors} / (blocks_n * tiles);
  config.splits = static_cast<int32_t>(std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, k / unit)));
  return config;
}

// Tiles that a launch provides for.
inline int64_t launched_tiles(const GemmParams& params, const GemmConfig& config) {
  return params.tiles ? params.max_tiles : (params.rows + config.tile_rows - 1) / config.tile_rows;
}

inline int64_t num_counters(const GemmParams& params, const GemmConfig& config) {
  if (config.splits == 1) return 0;
  return launched_tiles(params, config) * ((params.n + kGemmBlockN - 1) / kGemmBlockN);
}

inline int64_t workspace_values(const GemmParams& params, const GemmConfig& config) {
  return num_counters(params, config) * config.splits * config.tile_rows * kGemmBlockN;
}

}  // namespace sluice::cuda
