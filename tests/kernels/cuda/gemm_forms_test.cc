// What products can do besides rows and experts: matrices by heads, inputs that are padded to whole steps, results in f32.
#include "kernels/cuda/gemm/weight_layout.h"
#include "tests/kernels/cuda/gemm_case.h"

namespace sluice::cuda {
namespace {

struct HeadsCase {
  int32_t tokens, heads, n, x_cols, k, tile_rows;
};

// By heads, with rows of x longer than what is multiplied (as queries are: nope, then rope) and more weights than inputs.
void check_heads(const HeadsCase& c, bool f32, uint64_t seed) {
  const std::string what = fmt::format("tokens {} heads {} n {} inputs {} of {} tile {} f32 {} seed {}", c.tokens,
                                       c.heads, c.n, c.x_cols, c.k, c.tile_rows, f32, seed);
  grid::configure({.seed = seed});
  const int32_t x_stride = c.x_cols + 16, y_stride = c.n + 8, rows = c.tokens * c.heads;
  std::vector<bf16> x = random_bf16(int64_t{rows} * x_stride, seed);
  for (int32_t row = 0; row < rows; ++row)  // what a row may not read is NaN
    for (int32_t i = c.x_cols; i < x_stride; ++i) x[static_cast<size_t>(row * x_stride + i)] = {0xFFFF};
  std::vector<bf16> weights = random_bf16(int64_t{c.heads} * c.n * c.k, seed + 1, 0.1);
  for (size_t i = 0; i < weights.size(); ++i)
    if (static_cast<int32_t>(i) % c.k >= c.x_cols) weights[i] = {0};
  std::vector<uint32_t> packed(weights.size() / 2);
  shuffle_bf16(weights.data(), int64_t{c.heads} * c.n, c.k, packed.data());

  Guarded<bf16> y(int64_t{rows} * y_stride);
  Guarded<float> y_f32(int64_t{rows} * y_stride);
  bf16_gemm({.x = x.data(),
             .weights = packed.data(),
             .y = f32 ? nullptr : y.data(),
             .y_f32 = f32 ? y_f32.data() : nullptr,
             .rows = c.tokens,
             .n = c.n,
             .k = c.k,
             .x_cols = c.x_cols,
             .heads = c.heads,
             .x_stride = x_stride,
             .y_stride = y_stride},
            {.tile_rows = c.tile_rows, .splits = 1}, nullptr);
  EXPECT_TRUE(y.guards_intact() && y_f32.guards_intact()) << what;

  std::vector<float> got, want, terms;
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t n = 0; n < c.n; ++n) {
      const int64_t at = int64_t{row} * y_stride + n;
      got.push_back(f32 ? y_f32[at] : bf16_to_f32(y[at].bits));
      double sum = 0, magnitude = 0;
      for (int32_t i = 0; i < c.x_cols; ++i) {
        const double term =
            double{bf16_to_f32(x[static_cast<size_t>(row * x_stride + i)].bits)} *
            bf16_to_f32(weights[static_cast<size_t>((int64_t{row} % c.heads * c.n + n) * c.k + i)].bits);
        sum += term;
        magnitude += std::abs(term);
      }
      want.push_back(static_cast<float>(sum));
      terms.push_back(static_cast<float>(magnitude));
    }
    const int64_t end = (int64_t{row} + 1) * y_stride;
    EXPECT_TRUE(f32 ? y_f32.untouched(end - 8, end) : y.untouched(end - 8, end)) << what;
  }
  // A rounding a term in f32, and bf16's own at the end.
  const double last = f32 ? 0 : kBf16Unit;
  expect_close(
      got, want, c.n, 2 * last + 1e-5,
      [&](size_t i) { return last * std::abs(want[i]) + (c.k + 1) * kUnit * terms[i]; }, what);
}

TEST(CudaGemmForms, ByHeads) {
  for (const uint64_t seed : kSeeds)
    for (const bool f32 : {false, true})
      for (const HeadsCase& c : {HeadsCase{1, 1, 16, 64, 64, 8}, {3, 8, 64, 32, 64, 8}, {9, 3, 144, 128, 128, 8},
                                 {20, 2, 32, 64, 64, 16}, {0, 4, 32, 64, 64, 8}})
        check_heads(c, f32, seed);
}

TEST(CudaGemmForms, DenseResultsInF32AddSplitsToo) {
  const int32_t rows = 5, n = 48, k = 256;
  const std::vector<bf16> x = random_bf16(rows * k, 3), weights = random_bf16(n * k, 4, 0.1);
  std::vector<uint32_t> packed(weights.size() / 2);
  shuffle_bf16(weights.data(), n, k, packed.data());
  std::vector<float> want, terms;
  for (int32_t row = 0; row < rows; ++row) {
    for (int32_t i = 0; i < n; ++i) {
      double sum = 0, magnitude = 0;
      for (int32_t j = 0; j < k; ++j) {
        const double term = double{bf16_to_f32(x[static_cast<size_t>(row * k + j)].bits)} *
                            bf16_to_f32(weights[static_cast<size_t>(i * k + j)].bits);
        sum += term;
        magnitude += std::abs(term);
      }
      want.push_back(static_cast<float>(sum));
      terms.push_back(static_cast<float>(magnitude));
    }
  }
  for (const int32_t splits : {1, 2, 4}) {
    const GemmConfig config{.tile_rows = 8, .splits = splits};
    Guarded<float> y(int64_t{rows} * n);
    GemmParams params{.x = x.data(), .weights = packed.data(), .y_f32 = y.data(), .rows = rows, .n = n, .k = k,
                      .x_stride = k, .y_stride = n};
    std::vector<float> workspace(static_cast<size_t>(workspace_values(params, config)));
    std::vector<int32_t> counters(static_cast<size_t>(num_counters(params, config)), 0);
    params.workspace = workspace.data();
    params.counters = counters.data();
    bf16_gemm(params, config, nullptr);
    EXPECT_TRUE(y.guards_intact());
    expect_close(
        y.values(), want, n, 1e-5, [&](size_t i) { return (k + 4) * kUnit * terms[i]; },
        fmt::format("splits {}", splits));
  }
}

TEST(CudaGemmFormsDeathTest, FormsAreChecked) {
  const ExpertTile* tiles = reinterpret_cast<const ExpertTile*>(16);
  const int32_t* num_tiles = reinterpret_cast<const int32_t*>(16);
  EXPECT_DEATH(bf16_gemm({.n = 16, .k = 64, .heads = 2, .tiles = tiles, .num_tiles = num_tiles}, {}, nullptr),
               "params.heads == 0.*found 2 1");
  EXPECT_DEATH(bf16_gemm({.n = 16, .k = 64, .heads = 2}, {.splits = 2}, nullptr), "params.heads == 0.*found 2 2");
  EXPECT_DEATH(bf16_gemm({.n = 16, .k = 64, .x_cols = 72}, {}, nullptr), "found 72 64");
  EXPECT_DEATH(bf16_gemm({.n = 16, .k = 64, .x_cols = 12}, {}, nullptr), "found 12 64");
}

}  // namespace
}  // namespace sluice::cuda
