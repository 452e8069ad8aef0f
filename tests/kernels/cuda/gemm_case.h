// Products on the emulated grid, dense and grouped, against the oracle in f32 on the same (dequantised) weights.
#pragma once

#include <algorithm>

#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/plan.h"
#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {

struct GemmShape {
  int32_t n, k, group;
  std::vector<int32_t> rows_of_expert;  // one entry and not grouped: dense
  bool grouped;

  int32_t rows() const {
    int32_t sum = 0;
    for (const int32_t rows : rows_of_expert) sum += rows;
    return sum;
  }
  int32_t experts() const { return static_cast<int32_t>(rows_of_expert.size()); }
  std::string text(const GemmConfig& config) const {
    return fmt::format("n {} k {} group {} rows {} of {} experts, tile {} splits {}", n, k, group, rows(), experts(),
                       config.tile_rows, config.splits);
  }
};

// All experts' weights as the kernel takes them, and as f32.
struct GemmWeights {
  std::vector<std::byte> packed;
  std::vector<f16> scales;          // INT4
  std::vector<float> block_scales;  // FP8
  std::vector<float> values;        // [experts, n, k]
};

inline std::vector<float> multiply_by_oracle(const GemmShape& shape, const std::vector<float>& x, int32_t x_stride,
                                             const std::vector<int32_t>& row_ids, const std::vector<float>& weights) {
  std::vector<int32_t> offsets{0};
  std::vector<Weight> matrices;
  for (int32_t e = 0; e < shape.experts(); ++e) {
    offsets.push_back(offsets.back() + shape.rows_of_expert[static_cast<size_t>(e)]);
    matrices.push_back({WeightFormat::kF32, shape.n, shape.k,
                        reinterpret_cast<const std::byte*>(weights.data() + int64_t{e} * shape.n * shape.k)});
  }
  std::vector<float> y(static_cast<size_t>(int64_t{shape.rows()} * shape.n));
  TestContext context;
  ref::grouped_matmul({.x = x.data(),
                       .row_ids = row_ids.empty() ? nullptr : row_ids.data(),
                       .x_stride = x_stride,
                       .offsets = offsets,
                       .weights = matrices,
                       .y = y.data(),
                       .y_stride = shape.n},
                      context);
  return y;
}

// Runs `kernel` and compares. Returns the output's bits, for comparisons among configurations.
template <typename Kernel>
std::vector<uint16_t> check_gemm(const GemmShape& shape, const GemmConfig& config, const GemmWeights& weights,
                                 uint64_t seed, Kernel kernel) {
  const std::string what = shape.text(config) + fmt::format(" seed {}", seed);
  grid::configure({.seed = seed});
  const int32_t rows = shape.rows(), x_stride = shape.k + 8, y_stride = shape.n + 16;
  const std::vector<bf16> x = random_bf16(int64_t{rows + 2} * x_stride, 77);
  const std::vector<int32_t> row_ids = shape.grouped ? shuffled(rows + 2, 5) : std::vector<int32_t>{};

  std::vector<ExpertTile> tiles;
  for (int32_t e = 0, place = 0; e < shape.experts(); place += shape.rows_of_expert[static_cast<size_t>(e++)]) {
    const int32_t end = place + shape.rows_of_expert[static_cast<size_t>(e)];
    for (int32_t begin = place; begin < end; begin += config.tile_rows)
      tiles.push_back({e, begin, std::min(begin + config.tile_rows, end)});
  }
  const auto num_tiles = static_cast<int32_t>(tiles.size());
  tiles.resize(tiles.size() + 2, {-1, -1, -1});  // provided for, not there

  Guarded<bf16> y(int64_t{rows} * y_stride);
  Guarded<float> y_f32(config.splits > 1 || rows > 50 ? int64_t{rows} * y_stride : 0);  // the same sums, not rounded
  GemmParams params{.x = x.data(),
                    .row_ids = shape.grouped ? row_ids.data() : nullptr,
                    .weights = weights.packed.data(),
                    .scales = weights.scales.data(),
                    .block_scales = weights.block_scales.data(),
                    .y = y.data(),
                    .rows = rows,
                    .n = shape.n,
                    .k = shape.k,
                    .group = shape.group,
                    .x_stride = x_stride,
                    .y_stride = y_stride};
  if (shape.grouped) {
    params.tiles = tiles.data();
    params.num_tiles = &num_tiles;
    params.max_tiles = static_cast<int32_t>(tiles.size());
  }
  Guarded<float> workspace(workspace_values(params, config));
  std::vector<int32_t> counters(static_cast<size_t>(num_counters(params, config)), 0);
  params.workspace = workspace.data();
  params.counters = counters.data();
  kernel(params, config, nullptr);
  EXPECT_EQ(grid::last_launch().bank_conflicts, 0) << what;
  EXPECT_TRUE(y.guards_intact() && workspace.guards_intact()) << what;
  if (y_f32.size() > 0) {
    params.y_f32 = y_f32.data();
    kernel(params, config, nullptr);
    EXPECT_TRUE(y_f32.guards_intact()) << what;
    for (int32_t row = 0; row < rows; ++row)
      for (int32_t i = 0; i < shape.n; ++i) {
        const int64_t at = int64_t{row} * y_stride + i;
        EXPECT_EQ(f32_to_bf16(y_f32[at]), y[at].bits) << what << " at " << row << ", " << i;
      }
  }
  EXPECT_EQ(std::count(counters.begin(), counters.end(), 0), static_cast<int64_t>(counters.size())) << what;

  std::vector<float> got;
  std::vector<uint16_t> bits;
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t i = 0; i < shape.n; ++i) {
      bits.push_back(y[int64_t{row} * y_stride + i].bits);
      got.push_back(bf16_to_f32(bits.back()));
    }
    EXPECT_TRUE(y.untouched(int64_t{row} * y_stride + shape.n, (int64_t{row} + 1) * y_stride)) << what;
  }
  std::vector<float> x32 = to_f32(x), magnitudes = weights.values;
  const std::vector<float> want = multiply_by_oracle(shape, x32, x_stride, row_ids, weights.values);
  for (float& value : x32) value = std::abs(value);
  for (float& value : magnitudes) value = std::abs(value);
  const std::vector<float> terms = multiply_by_oracle(shape, x32, x_stride, row_ids, magnitudes);
  // Products of bf16 and small integers are exact in f32; each of the k sums, here and in the oracle, rounds a value of
  // at most the sum of magnitudes; scaling and splits add one rounding per group.
  const double sums = (2.0 * shape.k + 2.0 * shape.k / 32) * kUnit;
  expect_close(
      got, want, shape.n, 2 * kBf16Unit, [&](size_t i) { return kBf16Unit * std::abs(want[i]) + sums * terms[i]; },
      what);
  return bits;
}

}  // namespace sluice::cuda
