// The other two weight formats on the skeleton that int4_gemm_test.cc tests at length.
#include "kernels/cuda/gemm/weight_layout.h"
#include "tests/kernels/cuda/gemm_case.h"

namespace sluice::cuda {
namespace {

GemmWeights bf16_weights(const GemmShape& shape, uint64_t seed) {
  const int64_t rows = int64_t{shape.experts()} * shape.n;
  const std::vector<bf16> source = random_bf16(rows * shape.k, seed, 0.05);
  GemmWeights weights;
  weights.packed.resize(source.size() * 2);
  weights.values = to_f32(source);
  shuffle_bf16(source.data(), rows, shape.k, reinterpret_cast<uint32_t*>(weights.packed.data()));
  return weights;
}

// Random bytes: every exponent, subnormals and both signs, but no NaN.
GemmWeights fp8_weights(const GemmShape& shape, uint64_t seed) {
  const int64_t rows = int64_t{shape.experts()} * shape.n, blocks_n = (shape.n + 127) / 128, blocks_k = shape.k / 128;
  std::vector<f8e4m3> source(static_cast<size_t>(rows * shape.k));
  GemmWeights weights;
  for (float scale : random_values(shape.experts() * blocks_n * blocks_k, seed, 0.01))
    weights.block_scales.push_back(scale);
  for (int64_t i = 0; i < rows * shape.k; ++i) {
    auto bits = static_cast<uint8_t>(random_bits(seed, i));
    if ((bits & 0x7F) == 0x7F) bits ^= 1;
    source[static_cast<size_t>(i)] = {bits};
    const int64_t row = i / shape.k, expert = row / shape.n;
    const int64_t block = (expert * blocks_n + row % shape.n / 128) * blocks_k + i % shape.k / 128;
    weights.values.push_back(weights.block_scales[static_cast<size_t>(block)] * f8e4m3_to_f32(bits));
  }
  weights.packed.resize(source.size());
  shuffle_fp8(source.data(), rows, shape.k, reinterpret_cast<uint8_t*>(weights.packed.data()));
  return weights;
}

template <typename Kernel, typename Weights>
void check_all(int32_t group, Kernel kernel, Weights weights) {
  for (const uint64_t seed : kSeeds) {
    for (const auto& [rows, n, k, tile] :
         {std::tuple{1, 128, 128, 8}, {11, 208, 256, 16}, {40, 144, 128, 32}, {67, 128, 128, 64}}) {
      const GemmShape shape{n, k, group, {rows}, false};
      check_gemm(shape, {.tile_rows = tile, .splits = 1}, weights(shape, seed), seed, kernel);
    }
    const GemmShape grouped{272, 384, group, {3, 0, 20}, true};
    for (const int32_t splits : {1, 3})
      check_gemm(grouped, {.tile_rows = 16, .splits = splits}, weights(grouped, seed), seed, kernel);
  }
}

TEST(CudaBf16Gemm, DenseGroupedAndSplit) { check_all(0, bf16_gemm, bf16_weights); }
TEST(CudaFp8Gemm, DenseGroupedAndSplit) { check_all(128, fp8_gemm, fp8_weights); }

TEST(CudaBf16Gemm, InputsOfAnOddNumberOfSteps) {
  const GemmShape shape{16, 192, 0, {5}, false};
  for (const int32_t splits : {1, 2})
    check_gemm(shape, {.tile_rows = 8, .splits = splits}, bf16_weights(shape, 1), 1, bf16_gemm);
}

TEST(CudaGemmDeathTest, GroupsAreChecked) {
  EXPECT_DEATH(bf16_gemm({.group = 128}, {}, nullptr), "group == 0; found 128");
  EXPECT_DEATH(fp8_gemm({.group = 64}, {}, nullptr), "group == 128; found 64");
}

}  // namespace
}  // namespace sluice::cuda
