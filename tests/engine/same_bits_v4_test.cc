// The rule of same bits for DeepSeek-V4, whose blocks of 4 and 128 positions are half done at most steps' ends:
// whatever the chunks, the neighbours, the threads, the instruction set and the way of the pages, the logits are the
// same to the bit. v4_flash has all three kinds of layers and chooses entries from position 35 on.
#include <gtest/gtest.h>

#include "tests/engine/same_bits.h"

namespace sluice {
namespace {

constexpr int32_t kPrompt = 300;

std::vector<TokenId> tokens_of(int32_t count, int32_t seed) { return sluice::tokens_of(count, seed, 96); }

TEST(SameBitsV4, EveryChunkSize) {
  // Some 2,000 steps each, most of them of a few rows.
  for (const auto& [name, step] : {std::pair("v4_flash", 1), {"v4_variant", 7}}) {
    const auto runner = open(golden(name), {.threads = 1});
    const std::vector<TokenId> tokens = tokens_of(kPrompt, 1);
    const std::vector<float> whole = runner->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
    for (int32_t chunk = 1; chunk <= kPrompt; chunk += kChunkStep * step)
      expect_same(in_chunks(*runner, tokens, chunk), whole, fmt::format("{} in chunks of {}", name, chunk));
  }
}

TEST(SameBitsV4, EveryThreadCountInstructionSetFormatAndCacheType) {
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 2);
  for (const char* name : {"v4_flash", "v4_fp4"}) {
    for (const auto& [cache, weights] : {std::pair(DType::kF32, WeightFormat::kF32),
                                         {DType::kBF16, WeightFormat::kBF16},
                                         {DType::kBF16, WeightFormat::kInt8},
                                         {DType::kBF16, WeightFormat::kInt4G32}}) {
      const auto first = open(golden(name), {.weights = weights, .cache_dtype = cache, .threads = 1});
      const std::vector<float> whole = first->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
      for (const float logit : whole) ASSERT_TRUE(std::isfinite(logit));
      for (const Backend* backend : runnable_backends()) {
        if (std::string_view(backend->name) == "ref") continue;
        const auto runner =
            open(golden(name), {.backend = backend->name, .weights = weights, .cache_dtype = cache, .threads = 3});
        for (int32_t chunk : {17, 64, kPrompt})
          expect_same(in_chunks(*runner, tokens, chunk), whole,
                      fmt::format("{} {} {} {}", name, backend->name, sluice::name(weights), chunk));
      }
    }
  }
}

// A page holds all that its positions leave behind: pages that went to host memory and came back elsewhere continue as
// if they had stayed, and so does a copy of a half-filled page that nobody has written on in between.
TEST(SameBitsV4, PagesThatWereMovedAndCopied) {
  const auto runner = open(golden("v4_flash"), {});
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 3);
  const std::vector<float> whole = runner->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
  const int32_t vocab = runner->config().vocab_size;
  for (int32_t hit : {64, 128, 150, 192, 255}) {
    runner->compute(tokens, 0, hit, TokenRole::kPrompt);
    move_pages(*runner, hit);
    expect_same(runner->compute(tokens, hit, kPrompt, TokenRole::kPrompt),
                std::span(whole).subspan(static_cast<size_t>(hit * vocab)), fmt::format("hit of {}", hit));
  }
}

// Three sequences in one step: one goes on with its prompt, one generates, one begins.
TEST(SameBitsV4, Neighbours) {
  const auto runner = open(golden("v4_flash"), {.max_tokens = 2048});
  const int32_t vocab = runner->config().vocab_size;
  struct Part {
    std::vector<TokenId> tokens;
    int32_t begin, end;
    TokenRole role;
    std::vector<PageId> pages;
    std::vector<float> alone;
  };
  std::vector<Part> parts = {{tokens_of(200, 4), 100, 200, TokenRole::kPrompt, {}, {}},
                             {tokens_of(128, 5), 127, 128, TokenRole::kGenerated, {}, {}},
                             {tokens_of(30, 6), 0, 30, TokenRole::kPrompt, {}, {}}};
  const std::vector<PageId> all = runner->pages();
  const auto compute_begin = [&](const Part& part) {
    runner->pages() = part.pages;
    if (part.begin > 0) runner->compute(part.tokens, 0, part.begin, TokenRole::kPrompt);
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[i];
    part.pages.assign(all.begin() + static_cast<int64_t>(8 * i), all.begin() + static_cast<int64_t>(8 * i + 8));
    compute_begin(part);
    part.alone = runner->compute(part.tokens, part.begin, part.end, part.role);
    compute_begin(part);  // a page that is not full cannot be cut back
  }
  StepPlan plan;
  int32_t rows = 0;
  for (const Part& part : parts) {
    plan.work.push_back({.begin = part.begin,
                         .end = part.end,
                         .role = part.role,
                         .all_tokens = part.tokens,
                         .num_prompt_tokens = part.end,
                         .pages = part.pages,
                         .cached_hidden = {},
                         .stop_ids = {},
                         .num_prompt_logprobs = 0});
    rows += part.end - part.begin;
  }
  BatchBuilder builder;
  std::vector<float> hidden(static_cast<size_t>(rows * runner->config().hidden_size));
  std::vector<float> logits(static_cast<size_t>(rows * vocab));
  const StepBatch batch = builder.build(plan, runner->kv().pages(), nullptr);
  ASSERT_TRUE(runner->model().forward(batch, hidden.data(), runner->context()).ok());
  runner->model().logits(hidden.data(), rows, logits.data(), runner->context());
  size_t at = 0;
  for (const Part& part : parts) {
    expect_same(std::span(logits).subspan(at, part.alone.size()), part.alone, fmt::format("rows at {}", at));
    at += part.alone.size();
  }
}

}  // namespace
}  // namespace sluice
