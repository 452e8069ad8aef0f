// The products of a step, each with the configuration that its shape asks for. Owns nothing: the memory for partial sums
// is the workspace's. A product's bits of a row do not depend on the other rows: inputs are split as the smallest step
// would want it, whatever the step.
#pragma once

#include <cstdint>

#include "gpu/packing.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/plan.h"

namespace sluice {

// Rows sorted by expert, as permute leaves them on the device.
struct ExpertRows {
  const int32_t* row_ids = nullptr;  // [pairs] sorted place -> row of x, or null: x is sorted itself
  const cuda::ExpertTile* tiles = nullptr;
  const int32_t* num_tiles = nullptr;
  int32_t pairs = 0, max_tiles = 0, tile_rows = 0, top_k = 0;
};

class Products {
 public:
  // Partial sums and counters that a product may use at most.
  struct Needs {
    int64_t values = 0, counters = 0;
    void cover(const Needs& other);
  };
  static Needs dense_needs(const CudaMatrixShape& shape, int64_t rows, int32_t multiprocessors);
  static Needs grouped_needs(const CudaMatrixShape& shape, int64_t rows, int32_t top_k, int32_t experts,
                             int32_t multiprocessors);

  Products() = default;
  // workspace [needs.values], counters [needs.counters] zeros.
  Products(int32_t multiprocessors, const Needs& room, float* workspace, int32_t* counters, cuda::Stream stream)
      : multiprocessors_(multiprocessors),
        room_(room),
        workspace_(workspace),
        counters_(counters),
        stream_(stream) {}

  // y [rows, weights.n] = x [rows, x_stride] W^T
  void dense(const cuda::bf16* x, int32_t x_stride, int32_t rows, const DeviceMatrices& weights, cuda::bf16* y) const;
  void dense_f32(const cuda::bf16* x, int32_t x_stride, int32_t rows, const DeviceMatrices& weights, float* y) const;
  // Head h of token t: x row and y row t * heads + h, the h-th matrix.
  void by_heads(const cuda::bf16* x, int32_t x_stride, int32_t tokens, const DeviceMatrices& weights, cuda::bf16* y,
                int32_t y_stride) const;
  // y [pairs, weights.n] in the order of experts.
  void grouped(const cuda::bf16* x, int32_t x_stride, const ExpertRows& rows, const DeviceMatrices& weights,
               cuda::bf16* y) const;

  // Tokens of a tile of grouped products over `pairs` rows.
  static int32_t grouped_tile_rows(int64_t pairs, int32_t experts);

 private:
  void run(cuda::GemmParams params, const cuda::GemmConfig& config, const DeviceMatrices& weights) const;

  int32_t multiprocessors_ = 0;
  Needs room_;
  float* workspace_ = nullptr;
  int32_t* counters_ = nullptr;
  cuda::Stream stream_ = nullptr;
};

}  // namespace sluice
