// The rule of same bits for DeepSeek-V3.2, whose attention changes kernels at position index_topk: whatever the chunks,
// the neighbours, the threads, the instruction set and the way of the pages, the logits are the same to the bit.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/engine/same_bits.h"
#include "tests/model/temp_directory.h"

namespace sluice {
namespace {

constexpr int32_t kPrompt = 300;  // of which the first 40 positions (index_topk) are dense

std::vector<TokenId> tokens_of(int32_t count, int32_t seed) { return sluice::tokens_of(count, seed, 128); }

TEST(SameBitsV32, EveryChunkSize) {
  const auto runner = open(golden("v32_index"), {.threads = 1});  // some 2,000 steps, most of them of a few rows
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 1);
  const std::vector<float> whole = runner->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
  for (int32_t chunk = 1; chunk <= kPrompt; chunk += kChunkStep)
    expect_same(in_chunks(*runner, tokens, chunk), whole, fmt::format("chunks of {}", chunk));
}

TEST(SameBitsV32, EveryThreadCountInstructionSetAndCacheType) {
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 2);
  for (const char* name : {"v32_index", "v32_fp8"}) {
    for (DType cache : {DType::kF32, DType::kBF16}) {
      WantedBits whole(cache == DType::kBF16);
      for (const Backend* backend : runnable_backends()) {
        if (std::string_view(backend->name) == "ref") continue;
        const std::vector<float>& want = whole.of(*backend, [&] {
          return open(golden(name), {.backend = backend->name, .cache_dtype = cache, .threads = 1})
              ->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
        });
        const auto runner = open(golden(name), {.backend = backend->name, .cache_dtype = cache, .threads = 3});
        for (int32_t chunk : {17, 64, kPrompt})
          expect_same(in_chunks(*runner, tokens, chunk), want, fmt::format("{} {} {}", name, backend->name, chunk));
      }
    }
  }
}

// The index keys travel with the latents: pages that went to host memory and came back elsewhere continue as if they
// had stayed, and so does a copy of a half-filled page.
TEST(SameBitsV32, PagesThatWereMovedAndCopied) {
  const auto runner = open(golden("v32_index"), {});
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 3);
  const std::vector<float> whole = runner->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
  const int32_t vocab = runner->config().vocab_size;
  for (int32_t hit : {64, 128, 150}) {
    runner->compute(tokens, 0, hit, TokenRole::kPrompt);
    move_pages(*runner, hit);
    expect_same(runner->compute(tokens, hit, kPrompt, TokenRole::kPrompt),
                std::span(whole).subspan(static_cast<size_t>(hit * vocab)), fmt::format("hit of {}", hit));
  }
}

// Three sequences in one step, one of them generating, one wholly dense.
TEST(SameBitsV32, Neighbours) {
  const auto runner = open(golden("v32_index"), {.max_tokens = 2048});
  const int32_t vocab = runner->config().vocab_size;
  struct Part {
    std::vector<TokenId> tokens;
    int32_t begin, end;
    TokenRole role;
    std::vector<PageId> pages;
    std::vector<float> alone;
  };
  std::vector<Part> parts = {{tokens_of(200, 4), 100, 200, TokenRole::kPrompt, {}, {}},
                             {tokens_of(120, 5), 119, 120, TokenRole::kGenerated, {}, {}},
                             {tokens_of(30, 6), 0, 30, TokenRole::kPrompt, {}, {}}};
  const std::vector<PageId> all = runner->pages();
  for (size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts[i];
    part.pages.assign(all.begin() + static_cast<int64_t>(8 * i), all.begin() + static_cast<int64_t>(8 * i + 8));
    runner->pages() = part.pages;
    if (part.begin > 0) runner->compute(part.tokens, 0, part.begin, TokenRole::kPrompt);
    part.alone = runner->compute(part.tokens, part.begin, part.end, part.role);
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

// As long as a token sees no more than index_topk positions V3.2 is V3, to the bit; beyond it is not.
TEST(SameBitsV32, IsV3UpToIndexTopk) {
  nlohmann::json config = nlohmann::json::parse(std::ifstream(golden("v32_index") + "/config.json"));
  const auto open_as = [&](const char* model_type, int32_t top_k) {
    TempDirectory directory;
    config["model_type"] = model_type;
    config["index_topk"] = top_k;
    std::ofstream(directory.path() + "/config.json") << config.dump();
    for (const auto& file : std::filesystem::directory_iterator(golden("v32_index")))
      if (file.path().string().find(".safetensors") != std::string::npos)
        std::filesystem::copy(file.path(), directory.path());
    return open(directory.path(), {});
  };
  const std::vector<TokenId> tokens = tokens_of(kPrompt, 7);
  const auto v3 = open_as("deepseek_v3", 1), wide = open_as("deepseek_v32", kPrompt),
             narrow = open_as("deepseek_v32", kPrompt - 1), beyond = open_as("deepseek_v32", 1 << 27);
  const std::vector<float> want = v3->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
  expect_same(wide->compute(tokens, 0, kPrompt, TokenRole::kPrompt), want, "index_topk = tokens");
  expect_same(beyond->compute(tokens, 0, kPrompt, TokenRole::kPrompt), want, "index_topk beyond all positions");
  const std::vector<float> got = narrow->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
  const auto last = static_cast<size_t>((kPrompt - 1) * v3->config().vocab_size);
  expect_same(std::span(got).first(last), std::span(want).first(last), "index_topk = tokens - 1, but the last row");
  EXPECT_NE(std::memcmp(got.data() + last, want.data() + last, (got.size() - last) * sizeof(float)), 0);
}

}  // namespace
}  // namespace sluice
