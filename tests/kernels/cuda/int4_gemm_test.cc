// W4A16 on the emulated grid: layout, dense, grouped, splits, and which bits may depend on what.
#include "sluice/quantize.h"

#include "kernels/cuda/gemm/weight_layout.h"
#include "tests/kernels/cuda/gemm_case.h"

namespace sluice::cuda {
namespace {

GemmWeights int4_weights(const GemmShape& shape, uint64_t seed) {
  const int64_t rows = int64_t{shape.experts()} * shape.n, groups = shape.k / shape.group;
  const std::vector<float> source = random_values(rows * shape.k, seed, 0.05);
  std::vector<int8_t> codes(source.size());
  GemmWeights weights{std::vector<std::byte>(source.size() / 2),
                      std::vector<f16>(static_cast<size_t>(rows * groups)),
                      {},
                      std::vector<float>(source.size())};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = row * shape.k + g * shape.group;
      const float scale = quantize_weights(source.data() + begin, shape.group, 4, codes.data() + begin);
      weights.scales[static_cast<size_t>((row / shape.n * groups + g) * shape.n + row % shape.n)] = {f32_to_f16(scale)};
      for (int64_t i = begin; i < begin + shape.group; ++i)
        weights.values[static_cast<size_t>(i)] = scale * codes[static_cast<size_t>(i)];
    }
  }
  shuffle_int4(codes.data(), rows, shape.k, reinterpret_cast<uint32_t*>(weights.packed.data()));
  return weights;
}

TEST(CudaInt4Gemm, EveryNibbleHasItsPlace) {
  // A single code other than 0 must change one nibble, and all 16 x 64 codes different ones.
  std::vector<bool> seen(16 * 64, false);
  for (int64_t i = 0; i < 16 * 64; ++i) {
    std::vector<int8_t> codes(16 * 64, 0);
    codes[static_cast<size_t>(i)] = 7;
    std::vector<uint32_t> packed(128, 0xA5A5A5A5);
    shuffle_int4(codes.data(), 16, 64, packed.data());
    int changed = 0;
    for (size_t nibble = 0; nibble < 16 * 64; ++nibble) {
      const uint32_t code = packed[nibble / 8] >> (nibble % 8 * 4) & 0xF;
      if (code == 8) continue;
      EXPECT_EQ(code, 15u);
      EXPECT_FALSE(seen[nibble]);
      seen[nibble] = true;
      ++changed;
    }
    ASSERT_EQ(changed, 1) << i;
  }
}

TEST(CudaInt4Gemm, Dense) {
  for (const uint64_t seed : kSeeds)
    for (const int32_t group : {32, 64, 128})
      for (const auto& [rows, n, k, tile] :
           {std::tuple{1, 128, 128, 8}, {5, 16, 384, 8}, {9, 208, 256, 16}, {40, 144, 128, 32}, {67, 128, 256, 64}}) {
        const GemmShape shape{n, k, group, {rows}, false};
        check_gemm(shape, {.tile_rows = tile, .splits = 1}, int4_weights(shape, seed), seed, int4_gemm);
      }
}

TEST(CudaInt4Gemm, NoRows) {
  const GemmShape shape{128, 128, 64, {0}, false};
  check_gemm(shape, {.tile_rows = 16, .splits = 1}, int4_weights(shape, 1), 1, int4_gemm);
}

TEST(CudaInt4Gemm, Grouped) {
  for (const uint64_t seed : kSeeds)
    for (const auto& [rows, tile] : {std::pair{std::vector<int32_t>{3, 0, 9, 1}, 8},
                                     {{0, 0, 20, 0, 0}, 16},  // all to one expert
                                     {{33, 1, 0}, 32},
                                     {{0, 0}, 8}}) {
      const GemmShape shape{144, 256, 128, rows, true};
      check_gemm(shape, {.tile_rows = tile, .splits = 1}, int4_weights(shape, seed), seed, int4_gemm);
    }
}

TEST(CudaInt4Gemm, SplitsAreAddedByTheLastToCome) {
  for (const uint64_t seed : kSeeds)
    for (const int32_t splits : {2, 3, 5}) {
      const GemmShape dense{208, 640, 128, {11}, false}, grouped{128, 640, 64, {5, 0, 12}, true};
      check_gemm(dense, {.tile_rows = 16, .splits = splits}, int4_weights(dense, seed), seed, int4_gemm);
      check_gemm(grouped, {.tile_rows = 8, .splits = splits}, int4_weights(grouped, seed), seed, int4_gemm);
    }
}

// The order of blocks and threads, the tile's size and the neighbours must not show in a row's bits; the splits may.
TEST(CudaInt4Gemm, BitsDependOnTheRowAlone) {
  const GemmShape shape{144, 512, 64, {20}, false};
  const GemmWeights weights = int4_weights(shape, 9);
  for (const int32_t splits : {1, 3}) {
    const auto want = check_gemm(shape, {.tile_rows = 16, .splits = splits}, weights, 1, int4_gemm);
    for (const int32_t tile : {8, 16, 32, 64})
      EXPECT_EQ(check_gemm(shape, {.tile_rows = tile, .splits = splits}, weights, 2, int4_gemm), want) << tile;
    const GemmShape few{144, 512, 64, {3}, false};  // the same first rows
    const auto alone = check_gemm(few, {.tile_rows = 8, .splits = splits}, weights, 3, int4_gemm);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), want.begin())) << splits;
  }
}

TEST(CudaInt4Gemm, ThePlanFillsTheDeviceAndKeepsItsPromise) {
  // A decode step of a small matrix: one tile, 16 blocks; split until 132 multiprocessors have two each, 256 inputs at
  // least.
  EXPECT_EQ(choose_gemm_config(1, 1, 2048, 2048, 128, 132, false).splits, 8);
  EXPECT_EQ(choose_gemm_config(1, 1, 2048, 7168, 128, 132, false).splits, 16);
  EXPECT_EQ(choose_gemm_config(4096, 1, 2048, 7168, 128, 132, false).splits, 1);
  EXPECT_EQ(choose_gemm_config(4096, 1, 2048, 7168, 128, 132, true).splits, 16);
  EXPECT_EQ(choose_gemm_config(1, 1, 128, 64, 64, 132, false).splits, 1);
  EXPECT_EQ(choose_gemm_config(64 * 6, 64, 2048, 1408, 128, 132, false).tile_rows, 8);
  EXPECT_EQ(choose_gemm_config(4096 * 6, 64, 2048, 1408, 128, 132, false).tile_rows, 64);
  EXPECT_EQ(choose_gemm_config(0, 64, 2048, 1408, 128, 132, false).tile_rows, 8);
}

TEST(CudaInt4GemmDeathTest, ShapesAreChecked) {
  const auto run = [](int32_t n, int32_t k, int32_t group, GemmConfig config) {
    int4_gemm({.rows = 1, .n = n, .k = k, .group = group, .x_stride = k, .y_stride = n}, config, nullptr);
  };
  EXPECT_DEATH(run(128, 128, 48, {}), "found 48");
  EXPECT_DEATH(run(120, 128, 64, {}), "found 120 128 64");
  EXPECT_DEATH(run(128, 192, 128, {}), "found 128 192 128");
  EXPECT_DEATH(run(128, 128, 64, {.tile_rows = 24}), "tile_rows is one of.*found 24");
  EXPECT_DEATH(run(128, 128, 64, {.splits = 3}), "found 3 2");
  EXPECT_DEATH(run(128, 128, 64, {.splits = 2}), "workspace.*found 2");
}

}  // namespace
}  // namespace sluice::cuda
