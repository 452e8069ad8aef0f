// Embedding, RMSNorm, SiLU-mul, rotation against the oracle; the accuracy of exp; bits that do not depend on the team,
// the batch or the instruction set.
#include <cmath>
#include <string>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {
namespace {

class EmbedTest : public BackendTest {};
class RmsNormTest : public BackendTest {};
class SiluMulTest : public BackendTest {};
class RopeTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(EmbedTest);
SLUICE_FOR_PRODUCT_BACKENDS(RmsNormTest);
SLUICE_FOR_PRODUCT_BACKENDS(SiluMulTest);
SLUICE_FOR_PRODUCT_BACKENDS(RopeTest);

TEST_P(EmbedTest, TakesRowsOfF32AndBf16Tables) {
  for (int64_t hidden : {1, 17, 2048}) {
    const int64_t vocab = 50;
    const std::vector<float> table = random_values(vocab * hidden, 1);
    std::vector<uint16_t> narrow;
    for (float value : table) narrow.push_back(f32_to_bf16(value));
    for (const std::vector<TokenId>& tokens :
         {std::vector<TokenId>{}, {49}, {0, 49, 7, 7, 0}, std::vector<TokenId>(40, 3)}) {
      for (DType dtype : {DType::kF32, DType::kBF16}) {
        TestContext context(3);
        const void* data = dtype == DType::kF32 ? static_cast<const void*>(table.data()) : narrow.data();
        Guarded<float> x(static_cast<int64_t>(tokens.size()) * hidden);
        backend().embed({.tokens = tokens,
                         .table = {static_cast<const std::byte*>(data), dtype, Shape{vocab, hidden}},
                         .x = x.data()},
                        context);
        EXPECT_TRUE(x.guards_intact());
        std::vector<float> want;
        for (TokenId token : tokens)
          for (int64_t i = 0; i < hidden; ++i) {
            const auto at = static_cast<size_t>(token * hidden + i);
            want.push_back(dtype == DType::kF32 ? table[at] : bf16_to_f32(narrow[at]));
          }
        expect_same_bits(x.values(), want, hidden, fmt::format("hidden {} {}", hidden, name(dtype)));
      }
    }
  }
}

struct Norm {
  int64_t rows, cols, x_stride;
  std::vector<int32_t> row_ids;
  double magnitude = 1;
  float eps = 1e-6f;
};

std::vector<float> normalize(const Backend& backend, const Norm& n, const std::vector<float>& x, OpContext& context) {
  const std::vector<float> weight = random_values(n.cols, 2);
  Guarded<float> y(n.rows * n.cols);
  backend.rms_norm({.x = x.data(),
                    .row_ids = n.row_ids.empty() ? nullptr : n.row_ids.data(),
                    .weight = weight.data(),
                    .y = y.data(),
                    .rows = n.rows,
                    .cols = n.cols,
                    .x_stride = n.x_stride,
                    .eps = n.eps},
                   context);
  EXPECT_TRUE(y.guards_intact()) << backend.name;
  return {y.values().begin(), y.values().end()};
}

// Relative error: 16 chains of cols/16 fmas of positive terms, then 4 folds, each rounding at most once (u); the root
// halves that; mean, eps, root, reciprocal and the two products add 6 u, the oracle's own roundings 3 u.
double norm_bound(int64_t cols) { return ((static_cast<double>(cols) / 16 + 5) / 2 + 9) * kUnit; }

TEST_P(RmsNormTest, MatchesTheOracle) {
  const Norm cases[] = {
      {0, 64, 64, {}},
      {1, 1, 1, {}},
      {1, 15, 15, {}},
      {3, 17, 20, {}},
      {7, 64, 64, {}},
      {13, 576, 600, {}},
      {2, 2048, 2048, {}},
      {1, 7168, 7168, {}},
      {4, 100, 107, {9, 0, 9, 3}},  // gathered: the rows whose logits are wanted
      {2, 2048, 2048, {}, 1e-6},    // eps dominates
      {2, 2048, 2048, {}, 1e15},    // large, squares still finite
      {2, 33, 33, {}, 0.0},         // all zeros: 0, not NaN
  };
  for (const Norm& n : cases) {
    const int64_t x_rows = n.row_ids.empty() ? n.rows : 10;
    const std::vector<float> x =
        random_values(std::max<int64_t>(0, (x_rows - 1) * n.x_stride + (x_rows > 0 ? n.cols : 0)), 1, n.magnitude);
    TestContext context;
    const std::vector<float> want = normalize(oracle(), n, x, context);
    const double bound = norm_bound(n.cols);
    expect_close(
        normalize(backend(), n, x, context), want, n.cols, bound, [&](size_t i) { return bound * std::abs(want[i]); },
        fmt::format("rows {} cols {} magnitude {}", n.rows, n.cols, n.magnitude));
  }
}

TEST_P(RmsNormTest, SameBitsForAnyTeamBatchAndInstructionSet) {
  const Norm n{40, 1000, 1001, {}};
  const std::vector<float> x = random_values(n.rows * n.x_stride, 1);
  TestContext single;
  const std::vector<float> want = normalize(*product_backends().front(), n, x, single);
  for (int threads : {1, 2, 3}) {
    TestContext context(threads);
    expect_same_bits(normalize(backend(), n, x, context), want, n.cols, fmt::format("{} threads", threads));
  }
  for (int32_t row : {0, 1, 39})
    expect_same_bits(normalize(backend(), {1, n.cols, n.x_stride, {row}}, x, single),
                     std::span(want).subspan(static_cast<size_t>(row * n.cols), static_cast<size_t>(n.cols)), n.cols,
                     fmt::format("row {} alone", row));
}

TEST_P(RmsNormTest, NotANumberStaysInItsRow) {
  const Norm n{5, 40, 40, {}};
  std::vector<float> x = random_values(n.rows * n.cols, 1);
  x[2 * 40 + 39] = std::numeric_limits<float>::quiet_NaN();
  TestContext context;
  const std::vector<float> y = normalize(backend(), n, x, context);
  for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i / 40 == 2) << coordinate(i, 40);
}

std::vector<float> silu_mul(const Backend& backend, int64_t rows, int64_t width, const std::vector<float>& gate_up,
                            OpContext& context, float limit = 0) {
  Guarded<float> y(rows * width);
  backend.silu_mul({.gate_up = gate_up.data(), .y = y.data(), .rows = rows, .width = width, .limit = limit}, context);
  EXPECT_TRUE(y.guards_intact()) << backend.name;
  return {y.values().begin(), y.values().end()};
}

// exp's own error, in u: the last fma of the series 1, the ones before it 0.35 * 1.41 / 0.71 + ..., r itself 0.4, the
// series' remainder 0.12; together under 3.
constexpr double kExpBound = 3 * kUnit;

// gate / (1 + exp(-gate)) * up: exp, sum, quotient, product, and the oracle's rounding. Where exp saturates at e^88 the
// result is off by at most |gate * up| e^-88; the last term is the smallest subnormal.
double silu_bound(float gate, float up, float want) {
  return (kExpBound + 4 * kUnit) * std::abs(want) + std::abs(double{gate} * up) * std::exp(-88.0) * (1 + 8 * kUnit) +
         0x1p-149;
}

void expect_silu(const Backend& backend, int64_t rows, int64_t width, const std::vector<float>& gate_up) {
  TestContext context;
  const std::vector<float> want = silu_mul(oracle(), rows, width, gate_up, context);
  expect_close(
      silu_mul(backend, rows, width, gate_up, context), want, width, kExpBound + 4 * kUnit,
      [&](size_t i) {
        const size_t row = i / static_cast<size_t>(width), col = i % static_cast<size_t>(width);
        const size_t gate = row * 2 * static_cast<size_t>(width) + col;
        return silu_bound(gate_up[gate], gate_up[gate + static_cast<size_t>(width)], want[i]);
      },
      fmt::format("rows {} width {}", rows, width));
}

TEST_P(SiluMulTest, MatchesTheOracle) {
  for (int64_t rows : {0, 1, 3, 13})
    for (int64_t width : {1, 15, 16, 17, 100, 1408})
      expect_silu(backend(), rows, width, random_values(rows * 2 * width, 1, 3));
  expect_silu(backend(), 1, 18432, random_values(2 * 18432, 2, 3));
}

TEST_P(SiluMulTest, ExtremesAreFinite) {
  const std::vector<float> gates = {-1e6f, -100, -90,    -88.5f, -88, -87.4f, -87.3f, -87, -1,  -1e-20f,
                                    -0.0f, 0,    1e-20f, 1,      87,  87.3f,  88,     89,  100, 1e6f};
  std::vector<float> gate_up = gates;
  gate_up.insert(gate_up.end(), gates.size(), 1.5f);
  const auto width = static_cast<int64_t>(gates.size());
  expect_silu(backend(), 1, width, gate_up);
  TestContext context;
  for (float value : silu_mul(backend(), 1, width, gate_up, context)) EXPECT_TRUE(std::isfinite(value));
}

// The gate is cut above alone, the other factor on both sides (DeepSeek-V4); clamping by hand first says the same bits.
TEST_P(SiluMulTest, LimitClampsGateOnceAndUpTwice) {
  const int64_t rows = 3, width = 100;
  const float limit = 2.5f;
  const std::vector<float> gate_up = random_values(rows * 2 * width, 8, 4);
  std::vector<float> clamped = gate_up;
  size_t cut[3] = {};
  for (size_t i = 0; i < clamped.size(); ++i) {
    const bool is_gate = i / width % 2 == 0;
    cut[0] += is_gate && clamped[i] > limit;
    cut[1] += !is_gate && clamped[i] > limit;
    cut[2] += !is_gate && clamped[i] < -limit;
    clamped[i] = std::min(clamped[i], limit);
    if (!is_gate) clamped[i] = std::max(clamped[i], -limit);
  }
  for (size_t count : cut) ASSERT_GT(count, 10u);
  TestContext context;
  for (const Backend* on : {&backend(), &oracle()})
    expect_same_bits(silu_mul(*on, rows, width, gate_up, context, limit), silu_mul(*on, rows, width, clamped, context),
                     width, on->name);
}

TEST_P(SiluMulTest, NotANumberShows) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> gate_up(2 * 20, 1.0f);
  gate_up[3] = nan;
  gate_up[20 + 19] = nan;
  TestContext context;
  for (float limit : {0.0f, 10.0f}) {
    const std::vector<float> y = silu_mul(backend(), 1, 20, gate_up, context, limit);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_EQ(std::isnan(y[i]), i == 3 || i == 19) << i;
  }
}

// For a gate of -t, 16 <= t <= 87, up = 1: the result is -t / (1 + e^t), so its error is that of e^t, two roundings and
// the oracle's. A dense sweep, which crosses every border of the range reduction.
TEST_P(SiluMulTest, ExponentialOfPositiveNumbersIsAccurate) {
  constexpr int64_t kWidth = 200'000;
  std::vector<float> gate_up(2 * kWidth, 1.0f);
  for (int64_t i = 0; i < kWidth; ++i)
    gate_up[static_cast<size_t>(i)] = -(16 + 71 * static_cast<float>(i) / static_cast<float>(kWidth));
  expect_silu(backend(), 1, kWidth, gate_up);
}

TEST_P(SiluMulTest, SameBitsForAnyTeamBatchAndInstructionSet) {
  const int64_t rows = 21, width = 1411;
  const std::vector<float> gate_up = random_values(rows * 2 * width, 4, 4);
  TestContext single;
  const std::vector<float> want = silu_mul(*product_backends().front(), rows, width, gate_up, single);
  for (int threads : {1, 2, 3}) {
    TestContext context(threads);
    expect_same_bits(silu_mul(backend(), rows, width, gate_up, context), want, width,
                     fmt::format("{} threads", threads));
  }
  const std::vector<float> last(gate_up.end() - 2 * width, gate_up.end());
  expect_same_bits(silu_mul(backend(), 1, width, last, single), std::span(want).last(static_cast<size_t>(width)), width,
                   "last row alone");
}

struct Rotation {
  int64_t rows;
  int32_t heads, head_dim, offset, dim;
  RopeLayout layout;
};

std::vector<float> angles(int64_t rows, int32_t dim) {
  std::vector<float> cos_sin;
  for (int64_t row = 0; row < rows; ++row) {
    const auto angle = [&](int32_t i) { return double{value_at(77, row * dim + i, 2)}; };
    for (int32_t i = 0; i < dim / 2; ++i) cos_sin.push_back(static_cast<float>(std::cos(angle(i))));
    for (int32_t i = 0; i < dim / 2; ++i) cos_sin.push_back(static_cast<float>(std::sin(angle(i))));
  }
  return cos_sin;
}

std::vector<float> rotate(const Backend& backend, const Rotation& r, OpContext& context) {
  const std::vector<float> cos_sin = angles(r.rows, r.dim);
  Guarded<float> x(random_values(r.rows * r.heads * r.head_dim, 3));
  backend.rope({.x = x.data(),
                .cos_sin = cos_sin.data(),
                .rows = r.rows,
                .heads = r.heads,
                .head_dim = r.head_dim,
                .offset = r.offset,
                .dim = r.dim,
                .layout = r.layout},
               context);
  EXPECT_TRUE(x.guards_intact()) << backend.name;
  return {x.values().begin(), x.values().end()};
}

// Two products and a sum, written the same way on both sides and never fused: the same bits. And a rotation keeps each
// pair's length; outside [offset, offset + dim) nothing moves.
TEST_P(RopeTest, RotatesPairsAndKeepsTheirLength) {
  for (RopeLayout layout : {RopeLayout::kPair, RopeLayout::kHalf}) {
    for (const Rotation& r : {Rotation{0, 1, 64, 0, 64, layout},
                              {1, 1, 64, 0, 64, layout},
                              {5, 3, 26, 20, 6, layout},
                              {7, 16, 192, 128, 64, layout},
                              {2, 128, 192, 128, 64, layout},
                              {3, 2, 10, 2, 2, layout},
                              {60, 16, 192, 128, 64, layout}}) {
      TestContext context(2);
      const std::vector<float> x = random_values(r.rows * r.heads * r.head_dim, 3);
      const std::vector<float> y = rotate(backend(), r, context);
      expect_same_bits(y, rotate(oracle(), r, context), r.head_dim, fmt::format("rows {} dim {}", r.rows, r.dim));
      for (size_t i = 0; i < y.size(); ++i) {
        const auto d = static_cast<int32_t>(i % static_cast<size_t>(r.head_dim)) - r.offset;
        if (d < 0 || d >= r.dim) {
          ASSERT_EQ(y[i], x[i]) << coordinate(i, r.head_dim);
          continue;
        }
        const bool first = layout == RopeLayout::kPair ? d % 2 == 0 : d < r.dim / 2;
        if (!first) continue;
        const size_t j = layout == RopeLayout::kPair ? i + 1 : i + static_cast<size_t>(r.dim / 2);
        const double before = std::hypot(x[i], x[j]), after = std::hypot(y[i], y[j]);
        // Cosine and sine rounded (u each), two products and a sum per value.
        ASSERT_NEAR(after, before, 6 * kUnit * before) << coordinate(i, r.head_dim);
      }
    }
  }
}

// By hand, independent of the oracle: a quarter turn maps (a, b) to (-b, a).
TEST_P(RopeTest, AQuarterTurnByHand) {
  const std::vector<float> cos_sin = {0, 0, 1, 1};
  for (const auto& [layout, want] : {std::pair{RopeLayout::kPair, std::vector<float>{9, -2, 1, -4, 3}},
                                     std::pair{RopeLayout::kHalf, std::vector<float>{9, -3, -4, 1, 2}}}) {
    Guarded<float> x(std::vector<float>{9, 1, 2, 3, 4});
    TestContext context;
    backend().rope({.x = x.data(),
                    .cos_sin = cos_sin.data(),
                    .rows = 1,
                    .heads = 1,
                    .head_dim = 5,
                    .offset = 1,
                    .dim = 4,
                    .layout = layout},
                   context);
    EXPECT_EQ(std::vector<float>(x.values().begin(), x.values().end()), want);
  }
}

}  // namespace
}  // namespace sluice
