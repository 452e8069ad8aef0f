// The rule of same bits for grouped-query attention: whatever the chunks, the threads, the instruction set and the way
// of the pages, the logits are the same to the bit; and a model quantised to disk is the model quantised on load.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "model/cache_layout.h"
#include "model/quantize_checkpoint.h"
#include "tests/engine/same_bits.h"
#include "tests/model/temp_directory.h"

namespace sluice {
namespace {

constexpr int32_t kPrompt = 300;

std::vector<TokenId> tokens_of(int32_t count, int32_t seed) { return sluice::tokens_of(count, seed, 256); }

TEST(SameBitsQwen3, EveryChunkSize) {
  const auto runner = open(golden("qwen3_moe"), {.threads = 1});  // some 2,000 steps, most of them of a few rows
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 1);
  const std::vector<float> whole = runner->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
  for (int32_t chunk = 1; chunk <= kPrompt; chunk += kChunkStep)
    expect_same(in_chunks(*runner, tokens, chunk), whole, fmt::format("chunks of {}", chunk));
}

TEST(SameBitsQwen3, EveryThreadCountInstructionSetCacheTypeAndWeightFormat) {
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 2);
  for (const char* name : {"qwen3_moe", "qwen3_variant"}) {
    for (WeightFormat weights :
         {WeightFormat::kF32, WeightFormat::kBF16, WeightFormat::kInt8, WeightFormat::kInt4G32}) {
      const DType cache = weights == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
      const auto first = open(golden(name), {.weights = weights, .cache_dtype = cache, .threads = 1});
      const std::vector<float> whole = first->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
      for (const Backend* backend : runnable_backends()) {
        if (std::string_view(backend->name) == "ref") continue;
        const auto runner =
            open(golden(name), {.backend = backend->name, .weights = weights, .cache_dtype = cache, .threads = 3});
        for (int32_t chunk : {17, kPrompt})
          expect_same(in_chunks(*runner, tokens, chunk), whole, fmt::format("{} {} {}", name, backend->name, chunk));
      }
    }
  }
}

// A generated token's form over a prompt that came in any chunks, and rows of both roles in one step's pages.
TEST(SameBitsQwen3, GeneratedTokensBehindChunks) {
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 3);
  std::vector<float> want;
  for (int32_t chunk : {kPrompt, 23, 64}) {
    const auto runner = open(golden("qwen3_moe"), {.cache_dtype = DType::kBF16});
    in_chunks(*runner, {tokens.begin(), tokens.begin() + 250}, chunk);
    std::vector<float> got = runner->compute(tokens, 250, 251, TokenRole::kGenerated);
    const std::vector<float> rest = runner->compute(tokens, 251, kPrompt, TokenRole::kGenerated);
    got.insert(got.end(), rest.begin(), rest.end());
    if (want.empty()) want = got;
    expect_same(got, want, fmt::format("chunks of {}", chunk));
  }
}

TEST(SameBitsQwen3, QuantisedOnDiskIsQuantisedOnLoad) {
  const std::string model = golden("qwen3_moe");
  const ModelConfig config = ModelConfig::load(model).value();
  const Checkpoint source = Checkpoint::open(model, config).value();
  std::ifstream file(model + "/config.json");
  const std::string json(std::istreambuf_iterator<char>(file), {});
  ThreadTeam team(2);
  const TempDirectory directory;
  const std::vector<TokenId> tokens = tokens_of(20, 4);
  for (const WeightFormat weights : {WeightFormat::kInt4G32, WeightFormat::kInt8}) {
    const std::string out = directory.file(name(weights));
    const Result<QuantizeReport> report = quantize_checkpoint(source, config, json, out, team, {.weights = weights});
    ASSERT_TRUE(report.ok()) << report.status().to_string();
    const auto logits = [&](const std::string& from, WeightFormat as) {
      return open(from, {.weights = as})->compute(tokens, 0, 20, TokenRole::kPrompt);
    };
    expect_same(logits(out, WeightFormat::kAuto), logits(model, weights), name(weights));
  }
}

TEST(SameBitsQwen3, KeepsKeysAndValuesOfEveryLayer) {
  ModelConfig config = ModelConfig::load(golden("qwen3_moe")).value();
  const KvLayout layout = cache_layout(config, DType::kBF16);
  ASSERT_EQ(layout.groups.size(), 2u);
  EXPECT_TRUE(layout.rewindable());
  EXPECT_EQ(layout.bytes_per_token(), 3 * 2 * 2 * 32 * 2);  // layers, keys and values, heads, dims, bytes
  config.block_global = BlockGlobalConfig{.pages = 8, .sink_pages = 1, .window_pages = 1, .full_every = 2};
  const KvLayout with_means = cache_layout(config, DType::kBF16);
  ASSERT_EQ(with_means.groups.size(), 3u);
  EXPECT_EQ(with_means.groups[kKeyMeansGroup].layers, (std::vector<int32_t>{1}));
  EXPECT_EQ(with_means.bytes_per_page() - layout.bytes_per_page(), 2 * 32 * 2);
}

TEST(SameBitsQwen3, RefusesRanks) {
  const ModelConfig config = ModelConfig::load(golden("qwen3_moe")).value();
  const auto part = Partition::make(config, WeightFormat::kF32, 0, 2, ExpertSplit::kSliced);
  EXPECT_EQ(part.status().to_string(), "FAILED_PRECONDITION: tp: model_type qwen3_moe runs on one rank, asked for 2");
}

}  // namespace
}  // namespace sluice
