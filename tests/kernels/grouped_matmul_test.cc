// One product per expert. Same bits as the oracle whatever experts are empty, crowded or shared among threads.
#include <memory>
#include <string>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {
namespace {

struct Problem {
  std::vector<int32_t> rows_of;  // per expert
  int64_t outputs, inputs;
  WeightFormat format = WeightFormat::kBF16;
  bool gather = true;

  static constexpr int64_t num_tokens = 11;  // rows of x that row_ids choose from
  static constexpr int64_t x_gap = 3, y_gap = 5;

  std::vector<int32_t> offsets() const {
    std::vector<int32_t> result{0};
    for (int32_t count : rows_of) result.push_back(result.back() + count);
    return result;
  }
  std::string text() const {
    return fmt::format("rows of experts={} outputs={} inputs={} {}{}", fmt::join(rows_of, " "), outputs, inputs,
                       name(format), gather ? " gathered" : "");
  }
};

std::vector<float> source_of(const Problem& p, size_t expert) {
  return random_values(p.outputs * p.inputs, 100 + expert);
}

class Experts {
 public:
  Experts(const Backend& backend, const Problem& p) {
    for (size_t e = 0; e < p.rows_of.size(); ++e)
      packed_.push_back(std::make_unique<PackedWeight>(backend, p.format, p.outputs, p.inputs, source_of(p, e)));
    for (const auto& one : packed_) views_.push_back(one->view());
  }
  std::span<const Weight> views() const { return views_; }

 private:
  std::vector<std::unique_ptr<PackedWeight>> packed_;
  std::vector<Weight> views_;
};

std::vector<int32_t> row_ids_of(const Problem& p) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < p.offsets().back(); ++i)
    ids.push_back(static_cast<int32_t>(random_bits(5, i) % static_cast<uint64_t>(p.num_tokens)));
  return ids;
}

// y [offsets.back(), outputs], gaps checked and removed.
std::vector<float> multiply(const Backend& backend, const Problem& p, std::span<const Weight> weights,
                            OpContext& context) {
  const std::vector<int32_t> offsets = p.offsets(), ids = row_ids_of(p);
  const int64_t rows = offsets.back(), y_stride = p.outputs + p.y_gap;
  const int64_t x_rows = p.gather ? p.num_tokens : rows;
  const std::vector<float> x = random_values(std::max<int64_t>(0, x_rows * (p.inputs + p.x_gap) - p.x_gap), 1);
  Guarded<float> y(rows * y_stride);
  backend.grouped_matmul({.x = x.data(),
                          .row_ids = p.gather ? ids.data() : nullptr,
                          .x_stride = p.inputs + p.x_gap,
                          .offsets = offsets,
                          .weights = weights,
                          .y = y.data(),
                          .y_stride = y_stride},
                         context);
  EXPECT_TRUE(y.guards_intact()) << backend.name << " " << p.text();
  std::vector<float> result;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = y.values().subspan(static_cast<size_t>(r * y_stride), static_cast<size_t>(p.outputs));
    result.insert(result.end(), row.begin(), row.end());
    EXPECT_TRUE(y.untouched(r * y_stride + p.outputs, (r + 1) * y_stride)) << p.text() << " gap of row " << r;
  }
  return result;
}

class GroupedMatmulTest : public BackendTest {
 protected:
  void expect_oracle_bits(const Problem& p, int threads = 1) {
    TestContext context(threads), single;
    const Experts mine(backend(), p);
    const auto& want = oracle_answer(
        "grouped " + p.text(), [&] { return multiply(oracle(), p, Experts(oracle(), p).views(), single); });
    expect_same_bits(multiply(backend(), p, mine.views(), context), want, p.outputs, p.text());
  }
};

SLUICE_FOR_PRODUCT_BACKENDS(GroupedMatmulTest);

TEST_P(GroupedMatmulTest, EmptyOddAndCrowdedExperts) {
  const std::vector<int32_t> shares[] = {
      {0, 0, 0},      // nothing at all
      {1},            // one expert, one row
      {0, 0, 13, 0},  // all tokens to one expert
      {1, 2, 3, 4, 5, 6, 7, 0, 13},
      {0, 7, 0, 0, 1, 64, 0},
  };
  for (const auto& rows_of : shares)
    for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBF16})
      for (bool gather : {false, true})
        for (int64_t outputs : {8, 48, 130}) expect_oracle_bits({rows_of, outputs, 37, format, gather});
}

TEST_P(GroupedMatmulTest, ShapesOfReleasedModels) {
  std::vector<int32_t> lite(64);  // 64 experts, top 6 of 3 tokens
  for (int i = 0; i < 18; ++i) lite[static_cast<size_t>(i * 7 % 64)] += 1;
  Problem narrow{lite, 352, 512};
  expect_oracle_bits(narrow);
  Problem full{{0, 2, 0, 1}, 2816, 2048};  // gate and up of an expert in one matrix
  expect_oracle_bits(full);
  Problem down{{1, 0, 2}, 2048, 1408, WeightFormat::kBF16, /*gather=*/false};
  expect_oracle_bits(down);
  std::vector<int32_t> v3(256, 0);  // 256 experts, top 8 of one token
  for (int i = 0; i < 8; ++i) v3[static_cast<size_t>(i * 31)] = 1;
  expect_oracle_bits({v3, 64, 128});
}

TEST_P(GroupedMatmulTest, TeamsGiveTheSameBits) {
  for (int threads : {2, 3}) {
    expect_oracle_bits({{3, 0, 9, 1, 0, 20, 2, 2}, 272, 128}, threads);
    expect_oracle_bits({{0, 64, 0}, 520, 64, WeightFormat::kF32}, threads);
    expect_oracle_bits({{1, 1, 1, 1, 1, 1}, 704, 256}, threads);
  }
}

// Alone: a dense product of one row with the expert's weight. Run to run: the second call of the same context, whose
// scratch now holds the first one's leavings.
TEST_P(GroupedMatmulTest, ARowAloneHasTheBitsOfTheBatch) {
  const Problem p{{3, 0, 9, 1, 14}, 145, 96};
  TestContext context(3);
  const Experts experts(backend(), p);
  const std::vector<float> together = multiply(backend(), p, experts.views(), context);
  expect_same_bits(multiply(backend(), p, experts.views(), context), together, p.outputs, "second run");
  const std::vector<int32_t> ids = row_ids_of(p), offsets = p.offsets();
  for (size_t e = 0; e < p.rows_of.size(); ++e) {
    for (int32_t r = offsets[e]; r < offsets[e + 1]; ++r) {
      Guarded<float> y(p.outputs);
      const std::vector<float> all_x = random_values(p.num_tokens * (p.inputs + p.x_gap), 1);
      backend().matmul({.x = all_x.data() + ids[static_cast<size_t>(r)] * (p.inputs + p.x_gap),
                        .rows = 1,
                        .x_stride = p.inputs,
                        .weight = experts.views()[e],
                        .y = y.data(),
                        .y_stride = p.outputs},
                       context);
      expect_same_bits(y.values(),
                       std::span(together).subspan(static_cast<size_t>(r * p.outputs), static_cast<size_t>(p.outputs)),
                       p.outputs, fmt::format("expert {} row {}", e, r));
    }
  }
}

}  // namespace
}  // namespace sluice
