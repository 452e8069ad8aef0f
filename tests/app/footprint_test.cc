// What `sluice inspect` says of memory is what loading allocates: the model that only counts against the model that loads,
// for every architecture.
#include "app/footprint.h"

#include <gtest/gtest.h>

#include "app/loaded_model.h"
#include "kernels/registry.h"
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

struct Ranks {
  int count;
  const char* experts;
};

TEST(FootprintOfRanks, IsThatOfTheLoadedParts) {
  const std::string directory = source_file("tests/golden/transformers/v32_index");
  const ModelConfig config = ModelConfig::load(directory).value();
  const Checkpoint checkpoint = Checkpoint::open(directory, config).value();
  ThreadTeam team(1);
  Scratch scratch;
  OpContext context{team, scratch};
  for (const auto& [count, experts] : {Ranks{2, "sliced"}, {4, "whole"}}) {
    Options options = options_for(directory, WeightFormat::kF32);
    options.tp = count;
    options.parallel_experts = experts;
    const auto reports = predict_footprints(options, config, checkpoint);
    ASSERT_TRUE(reports.ok()) << reports.status().to_string();
    ASSERT_EQ(std::ssize(*reports), count);
    for (int rank = 0; rank < count; ++rank) {
      const MemoryReport& report = (*reports)[static_cast<size_t>(rank)];
      const auto loaded = DeepSeekModel::load(config, checkpoint, *find_backend("auto").value(), context,
                                              {.weights = WeightFormat::kF32,
                                               .max_batch_tokens = options.max_batch_tokens,
                                               .progress = {},
                                               .rank = rank,
                                               .num_ranks = count,
                                               .experts = expert_split(options)});
      ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
      EXPECT_EQ(report.weights, (*loaded)->weight_bytes()) << rank << " of " << count;
      EXPECT_EQ(report.cache, (*reports)[0].cache) << "every rank caches all latents";
    }
    EXPECT_GT((*reports)[0].activations, (*reports)[1].activations) << "rank 0 alone has whole rows of logits";
  }
}

// By Partition's cuts of every matrix, in a model whose rows fill the kernels' tiles on every rank. (Vectors are in no
// report.) In bf16 a value takes 2 bytes wherever it lies; kv_b lies in two forms, both cut by heads.
TEST(FootprintOfRanks, WhatIsReplicatedIsWhatPartitionLeavesWhole) {
  const std::string directory = source_file("configs/shapes/mini");
  const ModelConfig config = ModelConfig::load(directory).value();
  int64_t vectors = 0;
  for (const TensorSpec& spec : required_tensors(config))
    if (spec.shape.rank == 1) vectors += 2 * spec.shape.num_elements();
  for (const auto& [count, experts] : {Ranks{2, "sliced"}, {4, "sliced"}, {4, "whole"}}) {
    Options options = options_for(directory, WeightFormat::kBF16);
    options.tp = count;
    options.parallel_experts = experts;
    const auto reports = predict_footprints(options, config, Checkpoint::random(1, config));
    ASSERT_TRUE(reports.ok()) << reports.status().to_string();
    const auto bytes_of = [&](const Partition& part) { return rank_bytes(config, WeightFormat::kBF16, part); };
    int64_t in_parts = 0;
    for (int rank = 0; rank < count; ++rank)
      in_parts +=
          bytes_of(Partition::make(config, WeightFormat::kBF16, rank, count, expert_split(options)).value());
    const int64_t replicated = (in_parts - bytes_of(Partition::whole(config))) / (count - 1) - vectors;
    // By hand: a router of 32 experts in 7 layers, a latent of 256 and 32 rotary columns in all 8.
    EXPECT_EQ(replicated, 2 * 1024 * (7 * 32 + 8 * (256 + 32)));
    for (const MemoryReport& report : *reports) EXPECT_EQ(report.replicated, replicated) << count << ", " << experts;
  }
}

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
