// The numerators of `bench engine` against counts made by hand from the shapes, and the cells it runs.
#include <gtest/gtest.h>

#include "app/bench/cell.h"
#include "app/bench/traffic.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

std::string shape(const std::string& name) { return source_file("configs/shapes/" + name); }

// 4.5 bits a weight in groups of 32: half a byte and a sixteenth for the scale.
constexpr int64_t int4(int64_t weights) { return weights / 2 + weights / 16; }

TEST(WeightTraffic, CountsEveryMatrixOfMiniOnce) {
  const ModelConfig config = ModelConfig::load(shape("mini")).value();
  const int64_t hidden = 1024, heads = 16, layers = 8, moe_layers = 7;
  const int64_t query = heads * (64 + 32) * hidden, kv_a = (256 + 32) * hidden, out = hidden * heads * 64;
  const int64_t kv_b = heads * (64 + 64) * 256;
  const int64_t dense = 3 * 2816 * hidden, shared = 3 * 512 * hidden, router = 32 * hidden, head = 32000 * hidden;
  const int64_t norms = layers * (2 * hidden + 256) + hidden;

  const WeightTraffic traffic = weight_traffic(config, WeightFormat::kInt4G32);
  EXPECT_EQ(traffic.expert_bytes, int4(3 * 512 * hidden));
  EXPECT_EQ(traffic.dense_bytes, int4(layers * (query + kv_a + out) + dense + moe_layers * shared + head) +
                                     2 * (layers * kv_b + moe_layers * router) + 4 * norms);
  EXPECT_EQ(traffic.head_operations, 2 * head);
  EXPECT_EQ(traffic.token_operations,
            2 * (layers * (query + kv_a + kv_b + out) + dense + moe_layers * (shared + router + 4 * 3 * 512 * hidden)));
  // One token reads 71 MB; llama.cpp's Q4_0 of the same shape reads 70.7 MB (its up-projections are 4 bits, too).
  const int64_t token = traffic.dense_bytes + moe_layers * 4 * traffic.expert_bytes;
  EXPECT_NEAR(static_cast<double>(token), 70.7e6 + 2 * 4.2e6 * (16 - 4.5) / 16, 1e6);

  EXPECT_EQ(weight_traffic(config, WeightFormat::kF32).expert_bytes, 4 * 3 * 512 * hidden);
}

class CellRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Options options;
    options.threads = 1;
    options.cache_dtype = "f32";
    options.cache_memory_mib = 8;  // 8 MiB / (64 * 6 * 80 * 4 B) = 68 pages
    options.max_batch_tokens = 128;
    loaded_ = std::move(LoadedModel::load(options)).value();
  }
  std::unique_ptr<LoadedModel> loaded_;
};

TEST_F(CellRunnerTest, DecodesOneTokenASequenceAndStep) {
  CellRunner runner(*loaded_, 1);
  const CellRun run = runner.run({.kind = CellKind::kDecode, .tokens = 5, .depth = 70, .batch = 3});
  EXPECT_EQ(run.steps, 5);
  EXPECT_EQ(run.cached_positions, 3 * (71 + 72 + 73 + 74 + 75));
  // 5 MoE layers; each step wakes at least one sequence's 4 experts and at most 3 x 4 of the 16.
  EXPECT_GE(run.experts, 5 * 5 * 4);
  EXPECT_LE(run.experts, 5 * 5 * 12);
  EXPECT_GT(run.seconds, 0);
}

TEST_F(CellRunnerTest, DecodesFromAnEmptyContext) {
  CellRunner runner(*loaded_, 1);
  const CellRun run = runner.run({.kind = CellKind::kDecode, .tokens = 3, .depth = 0, .batch = 1});
  EXPECT_EQ(run.steps, 3);
  EXPECT_EQ(run.experts, 3 * 5 * 4);
}

TEST_F(CellRunnerTest, PrefillsInStepsOfTheServersBudgetCutAtPages) {
  CellRunner runner(*loaded_, 1);
  // Steps of at most 128 rows: A[0,128) | A[128,200) B[0,0): 56 rows are no page | B[0,128) | B[128,200).
  EXPECT_EQ(runner.run({.kind = CellKind::kPrefill, .tokens = 200, .depth = 0, .batch = 2}).steps, 4);
  // Two short prompts share a step.
  EXPECT_EQ(runner.run({.kind = CellKind::kPrefill, .tokens = 64, .depth = 0, .batch = 2}).steps, 1);
  // A depth within a page: [70, 128), then [128, 270) in two steps; the second sequence alike.
  EXPECT_EQ(runner.run({.kind = CellKind::kPrefill, .tokens = 200, .depth = 70, .batch = 1}).steps, 2);
}

TEST_F(CellRunnerTest, SaysWhatDoesNotFit) {
  const CellRunner runner(*loaded_, 1);
  EXPECT_EQ(runner.misfit({.kind = CellKind::kDecode, .tokens = 64, .depth = 64, .batch = 34}), "");
  EXPECT_EQ(runner.misfit({.kind = CellKind::kDecode, .tokens = 65, .depth = 64, .batch = 34}),
            "does not fit: 102 pages (11 MiB), the cache has 68; see --cache-memory-mib");
  EXPECT_EQ(runner.misfit({.kind = CellKind::kPrefill, .tokens = 2000, .depth = 64, .batch = 1}),
            "does not fit: 2064 positions, the context is 2048");
  EXPECT_EQ(runner.misfit({.kind = CellKind::kDecode, .tokens = 1, .depth = 0, .batch = 129}),
            "does not fit: 129 pages (15 MiB), the cache has 68; see --cache-memory-mib");
}

TEST_F(CellRunnerTest, NamesCellsAsLlamaBenchDoes) {
  EXPECT_EQ((Cell{.kind = CellKind::kPrefill, .tokens = 512}).name(), "pp512");
  EXPECT_EQ((Cell{.kind = CellKind::kDecode, .tokens = 128}).name(), "tg128");
}

}  // namespace
}  // namespace sluice
