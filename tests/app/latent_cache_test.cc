// The int8 latent cache: what is bound to its type, and what it costs the bundled model, on text that it was not trained on, in both roles: as a prompt
// (expanded attention over entries rounded twice) and as if generated (absorbed attention, query and weights in bytes,
// too). The reference is the bf16 cache in the same role.
#include <gtest/gtest.h>

#include <cmath>

#include "app/bench/cell.h"
#include "app/files.h"
#include "app/model_fingerprint.h"
#include "model/cache_layout.h"
#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

constexpr size_t kWindow = 256;  // tokens behind a begin-of-sequence token, as `sluice perplexity` has them

double negative_log_likelihood(const float* logits, int64_t vocab, TokenId next) {
  const double peak = *std::max_element(logits, logits + vocab);
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - peak);
  return peak + std::log(sum) - logits[next];
}

double perplexity(const std::vector<TokenId>& text, TokenId bos, DType cache, TokenRole role, WeightFormat weights) {
  const auto runner = ModelRunner::open(source_file("configs/demo-moe"), {.weights = weights, .cache_dtype = cache});
  SLUICE_CHECK(runner.ok(), "{}", runner.status().to_string());
  const int64_t vocab = (*runner)->config().vocab_size;
  double nll = 0;
  for (size_t begin = 0; begin < text.size(); begin += kWindow) {
    std::vector<TokenId> tokens = {bos};
    tokens.insert(tokens.end(), text.begin() + static_cast<ptrdiff_t>(begin),
                  text.begin() + static_cast<ptrdiff_t>(std::min(text.size(), begin + kWindow)));
    const std::vector<float> logits = (*runner)->compute(tokens, 0, static_cast<int32_t>(tokens.size()), role);
    for (size_t i = 0; i + 1 < tokens.size(); ++i)
      nll += negative_log_likelihood(logits.data() + static_cast<int64_t>(i) * vocab, vocab, tokens[i + 1]);
  }
  return std::exp(nll / static_cast<double>(text.size()));
}

TEST(LatentCachePerplexity, Int8StaysNearBf16InBothRoles) {
  const auto tokenizer = Tokenizer::load(source_file("configs/demo-moe"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  const std::string text = read_file(source_file("tests/golden/demo-moe/heldout.txt")).value();
  const std::vector<TokenId> ids = tokenizer->encode(text, false, SpecialTokens::kAsText).value();
  for (const WeightFormat weights : {WeightFormat::kBF16, WeightFormat::kInt4G32}) {
    for (const TokenRole role : {TokenRole::kPrompt, TokenRole::kGenerated}) {
      const double bf16 = perplexity(ids, *tokenizer->bos(), DType::kBF16, role, weights);
      const double int8 = perplexity(ids, *tokenizer->bos(), DType::kI8, role, weights);
      const char* how = role == TokenRole::kPrompt ? "prompt" : "generated";
      std::printf("%s weights, %s: perplexity %.5f over an int8 cache, %.5f over bf16: %+.4f %%\n", name(weights), how,
                  int8, bf16, (int8 / bf16 - 1) * 100);
      EXPECT_NEAR(int8 / bf16, 1, 0.002) << name(weights) << " " << how;
      EXPECT_NE(int8, bf16) << "the cache's type did not reach the kernels";
    }
  }
}

// A page on disk or of another run is never read as another type's, not even were its size the same.
TEST(LatentCache, TiersTellTypesApart) {
  const ModelConfig config = ModelConfig::load(source_file("configs/demo-moe")).value();
  const KvLayout int8 = cache_layout(config, DType::kI8), bf16 = cache_layout(config, DType::kBF16);
  EXPECT_EQ(int8.bytes_per_token(), 6 * (64 + 16 + 2 * 4));
  EXPECT_NE(layout_fingerprint(int8, "I8"), layout_fingerprint(bf16, "BF16"));
  EXPECT_NE(layout_fingerprint(int8, "I8"), layout_fingerprint(int8, "BF16"));
}

// `bench engine` fills an int8 cache with codes and scales that attention can read.
TEST(LatentCache, BenchesDecodeAtDepth) {
  Options options;
  options.threads = 1;
  options.cache_dtype = "int8";
  options.cache_memory_mib = 8;
  const auto loaded = LoadedModel::load(options);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_STREQ((*loaded)->cache_name(), "int8");
  CellRunner runner(**loaded, 1);
  EXPECT_EQ(runner.run({.kind = CellKind::kDecode, .tokens = 3, .depth = 70, .batch = 2}).steps, 3);
}

TEST(LatentCache, RefusedWhereItIsNotSupported) {
  Options options;
  options.cache_dtype = "int8";
  options.attention = "block_global";
  EXPECT_EQ(LoadedModel::load(options).status().to_string(),
            "FAILED_PRECONDITION: cache.dtype: int8 expects attention full, found block_global, whose means are bf16");
  options.attention = "full";
  options.model = source_file("tests/golden/transformers/v32_index");
  EXPECT_EQ(LoadedModel::load(options).status().to_string(),
            "FAILED_PRECONDITION: cache.dtype: int8 holds the latents of deepseek_v2 and deepseek_v3 (config.json: "
            "model_type), found deepseek_v32; take bf16");
}

}  // namespace
}  // namespace sluice
