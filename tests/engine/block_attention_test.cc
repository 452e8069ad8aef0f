// Block attention through the whole model: rows with no more pages before them than they may choose are full attention
// to the bit, choosing all but nothing changes nothing, and the rule of same bits holds across the change of kernels.
#include <cmath>

#include "model/cache_layout.h"
#include "tests/engine/same_bits.h"

namespace sluice {
namespace {

constexpr BlockGlobalConfig kMode{.pages = 3, .sink_pages = 1, .window_pages = 1, .full_every = 0};
constexpr int32_t kDense = 3 * kPageTokens;  // positions below are full attention
constexpr int32_t kPrompt = 7 * kPageTokens + 20;
constexpr const char* kModels[] = {"v2_lite", "qwen3_moe"};  // latent attention, grouped-query attention

std::vector<TokenId> tokens_of(int32_t count, int32_t seed) { return sluice::tokens_of(count, seed, 128); }

std::unique_ptr<ModelRunner> open(const ModelRunner::Options& options, const char* name = "v2_lite") {
  return sluice::open(golden(name), options);
}

bool same(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST(BlockAttention, RowsThatMayChooseEverythingAreFullAttentionToTheBit) {
  for (const char* name : kModels)
    for (DType cache : {DType::kF32, DType::kBF16}) {
      const auto full = open({.cache_dtype = cache}, name),
                 blocks = open({.cache_dtype = cache, .block_global = kMode}, name);
      const std::vector<TokenId> tokens = tokens_of(kPrompt, 1);
      const std::vector<float> want = full->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
      const std::vector<float> got = blocks->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
      const auto dense = static_cast<size_t>(kDense) * static_cast<size_t>(full->config().vocab_size);
      EXPECT_TRUE(same(std::span(got).first(dense), std::span(want).first(dense)));
      for (size_t row = kDense; row < kPrompt; ++row) {
        const size_t at = row * static_cast<size_t>(full->config().vocab_size);
        EXPECT_FALSE(same(std::span(got).subspan(at, 128), std::span(want).subspan(at, 128))) << "row " << row;
      }
    }
}

// With as many pages as the row has, in a generated role, the short sequence is the sequence.
TEST(BlockAttention, GeneratedRowsBelowTheBudgetAreFullAttentionToTheBit) {
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 2);
  BlockGlobalConfig wide = kMode;
  wide.pages = 8;
  for (const char* name : kModels) {
    const auto full = open({}, name), blocks = open({.block_global = wide}, name);
    for (ModelRunner* runner : {full.get(), blocks.get()}) runner->compute(tokens, 0, kPrompt - 1, TokenRole::kPrompt);
    EXPECT_TRUE(same(blocks->compute(tokens, kPrompt - 1, kPrompt, TokenRole::kGenerated),
                     full->compute(tokens, kPrompt - 1, kPrompt, TokenRole::kGenerated)))
        << name;
  }
}

TEST(BlockAttention, EveryChunkThreadCountInstructionSetAndCacheTypeGivesTheSameBits) {
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 3);
  for (const char* name : kModels)
    for (int32_t full_every : {0, 2}) {
      BlockGlobalConfig mode = kMode;
      mode.full_every = full_every;
      for (DType cache : {DType::kF32, DType::kBF16}) {
        WantedBits wanted(cache == DType::kBF16);
        for (const Backend* backend : runnable_backends()) {
          if (std::string_view(backend->name) == "ref") continue;
          const auto with_threads = [&](int threads) {
            return open({.backend = backend->name, .cache_dtype = cache, .threads = threads, .block_global = mode},
                        name);
          };
          const std::vector<float>& want =
              wanted.of(*backend, [&] { return with_threads(1)->compute(tokens, 0, kPrompt, TokenRole::kPrompt); });
          const auto runner = with_threads(3);
          for (int32_t chunk : {17, 64, 130, kPrompt})
            expect_same(in_chunks(*runner, tokens, chunk), want, fmt::format("{} chunks of {}", backend->name, chunk));
        }
      }
    }
}

// The oracle chooses the same pages, so its logits are near.
TEST(BlockAttention, AgreesWithTheOracle) {
  for (const char* name : kModels) {
    const std::vector<TokenId> tokens = tokens_of(kPrompt, 4);
    const auto product = open({.block_global = kMode}, name),
               ref = open({.backend = "ref", .block_global = kMode}, name);
    std::vector<int32_t> chosen[2];
    std::vector<float> logits[2];
    for (int i : {0, 1}) {
      ForwardObserver observer;
      observer.selected = [&, i](int32_t, std::span<const SequenceSpan> spans, int32_t count, const int32_t* pages) {
        for (const SequenceSpan& span : spans)
          chosen[i].insert(chosen[i].end(), pages, pages + (span.position_end - span.position_begin) * count);
      };
      ModelRunner& runner = *(i == 0 ? product : ref);
      const int32_t begin = kPrompt - 30;
      runner.compute(tokens, 0, begin, TokenRole::kPrompt);
      logits[i] = runner.compute(tokens, begin, kPrompt, TokenRole::kPrompt, &observer);
    }
    EXPECT_EQ(chosen[0].size(), static_cast<size_t>(product->config().num_hidden_layers * 30 * kMode.pages));
    EXPECT_EQ(chosen[0], chosen[1]);
    double error = 0, size = 0;
    for (size_t i = 0; i < logits[0].size(); ++i) {
      error += std::pow(double{logits[0][i]} - logits[1][i], 2);
      size += std::pow(logits[1][i], 2);
    }
    EXPECT_LT(std::sqrt(error / size), 2e-6);
  }
}

// Means travel with the latents: pages that went to host memory and came back elsewhere continue as if they had stayed,
// and so does a copy of a page that is not full, whose mean is still to come.
TEST(BlockAttention, PagesThatWereMovedAndCopied) {
  for (const char* name : kModels) {
    const auto runner = open({.block_global = kMode}, name);
    const std::vector<TokenId> tokens = tokens_of(kPrompt, 5);
    const std::vector<float> whole = runner->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
    const int32_t vocab = runner->config().vocab_size;
    for (int32_t hit : {64, 300, 320}) {
      runner->compute(tokens, 0, hit, TokenRole::kPrompt);
      move_pages(*runner, hit);
      expect_same(runner->compute(tokens, hit, kPrompt, TokenRole::kPrompt),
                  std::span(whole).subspan(static_cast<size_t>(hit * vocab)), fmt::format("hit of {}", hit));
    }
  }
}

TEST(BlockAttention, WhatElseIsAskedOfItIsNamed) {
  const auto refused = [](const char* name, BlockGlobalConfig mode) {
    return ModelRunner::open(golden(name), {.block_global = mode}).status().to_string();
  };
  EXPECT_EQ(refused("v32_index", kMode),
            "FAILED_PRECONDITION: attention: block_global is for models with full attention; deepseek_v32 chooses for "
            "itself");
  EXPECT_EQ(refused("v2_lite", {.pages = 3, .sink_pages = 1, .window_pages = 2, .full_every = 0}),
            "INVALID_ARGUMENT: block_global.pages: expected more than sink_pages (1) and window_pages (2) together, "
            "found 3");
  EXPECT_EQ(refused("v2_lite", {.pages = 3, .sink_pages = 1, .window_pages = 1, .full_every = 1}),
            "INVALID_ARGUMENT: block_global.full_every: 1 keeps every layer full; that is attention: full");
}

TEST(BlockAttention, KeepsAMeanAPageAndLayerThatIsNotFull) {
  ModelConfig config = ModelConfig::load(golden("v2_lite")).value();
  config.num_hidden_layers = 5;
  config.block_global = BlockGlobalConfig{.pages = 8, .sink_pages = 1, .window_pages = 1, .full_every = 2};
  const KvLayout layout = cache_layout(config, DType::kBF16);
  ASSERT_EQ(layout.groups.size(), 2u);
  EXPECT_EQ(layout.groups[kMeansGroup].layers, (std::vector<int32_t>{1, 3}));
  EXPECT_EQ(layout.bytes_per_page(), (64 * 5 + 2) * config.latent_dim() * 2);
}

}  // namespace
}  // namespace sluice
