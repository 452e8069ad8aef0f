// What `sluice inspect` says of memory is what loading allocates: the model that only counts against the model that loads,
// for every architecture.
#include "app/footprint.h"

#include <gtest/gtest.h>

#include "app/loaded_model.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

class FootprintOf : public testing::TestWithParam<const char*> {};

Options options_for(const std::string& model, WeightFormat weights) {
  Options options;
  options.model = model;
  options.threads = 2;
  options.weights = weights;
  options.context = 512;
  options.cache_memory_mib = 8;
  options.max_batch_tokens = 96;
  return options;
}

TEST_P(FootprintOf, AMeasuredModelIsThatOfALoadedOne) {
  const std::string directory = source_file(std::string("tests/golden/transformers/") + GetParam());
  for (const WeightFormat weights : {WeightFormat::kAuto, WeightFormat::kF32, WeightFormat::kInt4G32}) {
    const Options options = options_for(directory, weights);
    const ModelConfig config = ModelConfig::load(directory).value();
    const Checkpoint checkpoint = Checkpoint::open(directory, config).value();
    const Result<MemoryReport> predicted = predict_footprint(options, config, checkpoint);
    ASSERT_TRUE(predicted.ok()) << predicted.status().to_string();
    const auto loaded = LoadedModel::load(options);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    const MemoryReport found = footprint_of(*(*loaded)->model, (*loaded)->num_pages, 2);
    EXPECT_EQ(predicted->weights, found.weights);
    EXPECT_EQ(predicted->activations, found.activations);
    EXPECT_EQ(predicted->cache, found.cache);
    EXPECT_EQ(predicted->total(), found.total());
    EXPECT_GT(predicted->activations, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, FootprintOf,
                         testing::Values("v2_lite", "v3_fp8", "v32_index", "v4_fp4", "qwen3_moe"),
                         [](const auto& param_info) { return std::string(param_info.param); });

// A large model says what it takes without taking it.
TEST(Footprint, OfALargeModelTakesNoMemory) {
  const std::string directory = source_file("configs/shapes/v3");
  const ModelConfig config = ModelConfig::load(directory).value();
  Options options = options_for(directory, WeightFormat::kBF16);
  options.cache_memory_mib = 0;
  const Result<MemoryReport> predicted = predict_footprint(options, config, Checkpoint::random(1, config));
  ASSERT_TRUE(predicted.ok()) << predicted.status().to_string();
  EXPECT_GT(predicted->weights, 1'300'000'000'000);
  EXPECT_EQ(predicted->cache, 61 * 576 * 2 * 64 * int64_t{512 / 64 + 1});
}

}  // namespace
}  // namespace sluice
