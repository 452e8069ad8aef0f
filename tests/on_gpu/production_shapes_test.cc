// Products at the shapes of DeepSeek-V2-Lite and V3: too large for the emulated grid. Few rows, so that the oracle's plain
// loops end in seconds.
#include "sluice/quantize.h"

#include "kernels/cuda/gemm/weight_layout.h"
#include "tests/kernels/cuda/gemm_case.h"

namespace sluice::cuda {
namespace {

GemmWeights int4(const GemmShape& shape) {
  const int64_t rows = int64_t{shape.experts()} * shape.n, groups = shape.k / shape.group;
  const std::vector<float> source = random_values(rows * shape.k, 1, 0.05);
  std::vector<int8_t> codes(source.size());
  GemmWeights weights{std::vector<std::byte>(source.size() / 2), std::vector<f16>(static_cast<size_t>(rows * groups)),
                      {}, std::vector<float>(source.size())};
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t begin = row * shape.k + g * shape.group;
      // A scale of the largest value: the search for a better one would take longer than the test.
      float largest = 0;
      for (int64_t i = begin; i < begin + shape.group; ++i)
        largest = std::max(largest, std::abs(source[static_cast<size_t>(i)]));
      const f16 scale{f32_to_f16(largest / 7)};
      weights.scales[static_cast<size_t>((row / shape.n * groups + g) * shape.n + row % shape.n)] = scale;
      for (int64_t i = begin; i < begin + shape.group; ++i) {
        const float code = std::clamp(std::nearbyint(source[static_cast<size_t>(i)] / f16_to_f32(scale.bits)), -8.f, 7.f);
        codes[static_cast<size_t>(i)] = static_cast<int8_t>(code);
        weights.values[static_cast<size_t>(i)] = f16_to_f32(scale.bits) * code;
      }
    }
  }
  shuffle_int4(codes.data(), rows, shape.k, reinterpret_cast<uint32_t*>(weights.packed.data()));
  return weights;
}

GemmWeights bf16_of(const GemmShape& shape) {
  const int64_t rows = int64_t{shape.experts()} * shape.n;
  const std::vector<bf16> source = random_bf16(rows * shape.k, 2, 0.05);
  GemmWeights weights;
  weights.packed.resize(source.size() * 2);
  weights.values = to_f32(source);
  shuffle_bf16(source.data(), rows, shape.k, reinterpret_cast<uint32_t*>(weights.packed.data()));
  return weights;
}

TEST(ProductionShapes, DenseProducts) {
  for (const auto& [n, k, rows] : {std::tuple{2048, 2048, 9}, {3072, 2048, 1}, {1536, 7168, 3}, {7168, 16384, 1}}) {
    const GemmShape int4_shape{n, k, 128, {rows}, false}, bf16_shape{n, k, 0, {rows}, false};
    for (const int32_t splits : {1, 8}) {
      check_gemm(int4_shape, {.tile_rows = 16, .splits = splits}, int4(int4_shape), 1, int4_gemm);
      check_gemm(bf16_shape, {.tile_rows = 8, .splits = splits}, bf16_of(bf16_shape), 1, bf16_gemm);
    }
  }
}

TEST(ProductionShapes, ExpertsOfLite) {  // 64 experts, gate and up, then down
  std::vector<int32_t> rows(64, 0);
  for (const size_t chosen : {0, 3, 17, 31, 40, 63}) rows[chosen] = static_cast<int32_t>(chosen % 5) + 1;
  for (const auto& [n, k] : {std::pair{2816, 2048}, {2048, 1408}}) {
    const GemmShape shape{n, k, 128, rows, true};
    check_gemm(shape, {.tile_rows = 8, .splits = 2}, int4(shape), 1, int4_gemm);
  }
}

TEST(ProductionShapes, AnExpertOfV3WithManyTokens) {
  const GemmShape shape{4096, 7168, 128, {0, 70}, true};
  check_gemm(shape, {.tile_rows = 64, .splits = 1}, int4(shape), 1, int4_gemm);
}

}  // namespace
}  // namespace sluice::cuda
