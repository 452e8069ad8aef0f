// Dense product: one fma chain per output in ascending k, so every path must give the oracle's bits, for every number
// of rows, panel remainder, instruction set and team.
#include <string>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {
namespace {

struct Problem {
  int64_t rows, outputs, inputs;
  WeightFormat format = WeightFormat::kF32;
  bool add = false;
  int64_t x_gap = 0, y_gap = 0;  // strides beyond the widths

  std::string text() const {
    return fmt::format("rows={} outputs={} inputs={} gaps {} {} {}{}", rows, outputs, inputs, x_gap, y_gap, name(format),
                       add ? " add" : "");
  }
};

// y [rows, outputs], gaps checked and removed.
std::vector<float> multiply(const Backend& backend, const Problem& p, const std::vector<float>& x,
                            const std::vector<float>& source, OpContext& context) {
  const PackedWeight weight(backend, p.format, p.outputs, p.inputs, source);
  const int64_t y_stride = p.outputs + p.y_gap;
  Guarded<float> y(p.rows * y_stride);
  if (p.add)
    for (int64_t r = 0; r < p.rows; ++r)
      for (int64_t n = 0; n < p.outputs; ++n) y.data()[r * y_stride + n] = value_at(99, r * p.outputs + n);
  backend.matmul({.x = x.data(),
                  .rows = p.rows,
                  .x_stride = p.inputs + p.x_gap,
                  .weight = weight.view(),
                  .y = y.data(),
                  .y_stride = y_stride,
                  .add = p.add},
                 context);
  EXPECT_TRUE(y.guards_intact()) << backend.name << " " << p.text();
  std::vector<float> result;
  for (int64_t r = 0; r < p.rows; ++r) {
    const auto row = y.values().subspan(static_cast<size_t>(r * y_stride), static_cast<size_t>(y_stride));
    result.insert(result.end(), row.begin(), row.begin() + p.outputs);
    EXPECT_TRUE(y.untouched(r * y_stride + p.outputs, (r + 1) * y_stride))
        << backend.name << " " << p.text() << " writes into the gap behind row " << r;
  }
  return result;
}

class MatmulTest : public BackendTest {
 protected:
  // The last row of x ends where its last value does: reading on would leave the allocation.
  void expect_oracle_bits(const Problem& p, OpContext& context) {
    const std::vector<float> x = random_values(std::max<int64_t>(0, p.rows * (p.inputs + p.x_gap) - p.x_gap), 1);
    const std::vector<float> source = random_values(p.outputs * p.inputs, 2);
    TestContext single;
    const auto& want = oracle_answer("dense " + p.text(), [&] { return multiply(oracle(), p, x, source, single); });
    expect_same_bits(multiply(backend(), p, x, source, context), want, p.outputs, p.text());
  }
};

SLUICE_FOR_PRODUCT_BACKENDS(MatmulTest);

TEST_P(MatmulTest, AllRemaindersOfRowsAndPanels) {
  TestContext context;
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16})
    for (int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 13})
      for (int64_t outputs : {1, 15, 16, 17, 48, 64, 65, 127, 130, 208})
        for (int64_t inputs : {1, 3, 16, 65}) expect_oracle_bits({rows, outputs, inputs, format}, context);
}

TEST_P(MatmulTest, StridesAndAdd) {
  TestContext context;
  for (bool add : {false, true})
    for (int64_t rows : {1, 5, 6, 20})
      for (int64_t outputs : {8, 16, 40, 129})
        expect_oracle_bits({rows, outputs, 33, WeightFormat::kBF16, add, 7, 5}, context);
}

TEST_P(MatmulTest, ShapesOfReleasedModels) {
  TestContext context;
  const Problem problems[] = {
      {3, 64, 2048, WeightFormat::kF32},                   // lite router
      {2, 256, 7168, WeightFormat::kF32},                  // V3 router
      {4, 576, 2048, WeightFormat::kBF16},                 // lite kv_a
      {2, 3072, 2048, WeightFormat::kBF16},                // lite q
      {1, 10944, 2048, WeightFormat::kBF16},               // lite dense layer, up
      {2, 2048, 2816, WeightFormat::kBF16, /*add=*/true},  // lite shared experts, down, into the residual
      {1, 2048, 2048, WeightFormat::kF32, /*add=*/true, 0, 16},
  };
  for (const Problem& p : problems) expect_oracle_bits(p, context);
}

TEST_P(MatmulTest, TeamsGiveTheSameBits) {
  for (int threads : {2, 3}) {
    TestContext context(threads);
    expect_oracle_bits({5, 1000, 128, WeightFormat::kBF16}, context);
    expect_oracle_bits({1, 3000, 200, WeightFormat::kF32}, context);
    expect_oracle_bits({30, 260, 96, WeightFormat::kF32, true}, context);
  }
}

// A row has the bits of a call of its own, wherever it stands in a batch.
TEST_P(MatmulTest, ARowAloneHasTheBitsOfTheBatch) {
  TestContext context(2);
  const Problem batch{17, 200, 160, WeightFormat::kBF16};
  const std::vector<float> x = random_values(batch.rows * batch.inputs, 1);
  const std::vector<float> source = random_values(batch.outputs * batch.inputs, 2);
  const std::vector<float> together = multiply(backend(), batch, x, source, context);
  for (int64_t row = 0; row < batch.rows; ++row) {
    const std::vector<float> alone_x(x.begin() + row * batch.inputs, x.begin() + (row + 1) * batch.inputs);
    expect_same_bits(
        multiply(backend(), {1, batch.outputs, batch.inputs, batch.format}, alone_x, source, context),
        std::span(together).subspan(static_cast<size_t>(row * batch.outputs), static_cast<size_t>(batch.outputs)),
        batch.outputs, fmt::format("row {}", row));
  }
}

// A NaN or infinity stays in its row, and a weight's in its output.
TEST_P(MatmulTest, NotANumberStaysInItsRowAndOutput) {
  TestContext context;
  const Problem p{7, 40, 32, WeightFormat::kF32};
  std::vector<float> x = random_values(p.rows * p.inputs, 1);
  std::vector<float> source = random_values(p.outputs * p.inputs, 2);
  x[static_cast<size_t>(3 * p.inputs + 31)] = std::numeric_limits<float>::quiet_NaN();
  source[static_cast<size_t>(39 * p.inputs)] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> y = multiply(backend(), p, x, source, context);
  for (int64_t r = 0; r < p.rows; ++r)
    for (int64_t n = 0; n < p.outputs; ++n)
      EXPECT_EQ(std::isnan(y[static_cast<size_t>(r * p.outputs + n)]), r == 3 || n == 39) << r << ", " << n;
}

TEST_P(MatmulTest, SupportsWhatItClaims) {
  for (const Backend* any : runnable_backends()) {
    EXPECT_TRUE(any->supports(WeightFormat::kF32)) << any->name;
    EXPECT_TRUE(any->supports(WeightFormat::kBF16)) << any->name;
    EXPECT_FALSE(any->supports(WeightFormat::kAuto)) << any->name;  // is resolved before packing
  }
}

}  // namespace
}  // namespace sluice
