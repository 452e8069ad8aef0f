// The rule of same bits for DeepSeek-V3.2, whose attention changes kernels at position index_topk: whatever the chunks,
// the neighbours, the threads, the instruction set and the way of the pages, the logits are the same to the bit.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/model/temp_directory.h"
#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

// Instrumented code is some ten times slower; fewer chunk sizes show the same mistakes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int32_t kChunkStep = 37;
#else
constexpr int32_t kChunkStep = 1;
#endif

constexpr int32_t kPrompt = 300;  // of which the first 40 positions (index_topk) are dense

std::string golden(const char* name) { return source_file(std::string("tests/golden/transformers/") + name); }

std::vector<TokenId> tokens_of(int32_t count, int32_t seed) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back((i * i * 31 + i * 7 + seed * 101 + 3) % 128);
  return tokens;
}

std::unique_ptr<ModelRunner> open(const std::string& directory, const ModelRunner::Options& options) {
  auto runner = ModelRunner::open(directory, options);
  EXPECT_TRUE(runner.ok()) << runner.status().to_string();
  return std::move(runner).value();
}

void expect_same(std::span<const float> got, std::span<const float> want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size()) << what;
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size_bytes()), 0) << what;
}

std::vector<float> in_chunks(ModelRunner& runner, const std::vector<TokenId>& tokens, int32_t chunk) {
  std::vector<float> logits;
  const auto size = static_cast<int32_t>(tokens.size());
  for (int32_t begin = 0; begin < size; begin += chunk) {
    const std::vector<float> part = runner.compute(tokens, begin, std::min(size, begin + chunk), TokenRole::kPrompt);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

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
      std::vector<float> whole, whole_on_amx;  // which sums bf16 in an order of its own
      for (const Backend* backend : runnable_backends()) {
        if (std::string_view(backend->name) == "ref") continue;
        std::vector<float>& want =
            cache == DType::kBF16 && std::string_view(backend->name) == "cpu-amx" ? whole_on_amx : whole;
        if (want.empty())
          want = open(golden(name), {.backend = backend->name, .cache_dtype = cache, .threads = 1})
                     ->compute(tokens, 0, kPrompt, TokenRole::kPrompt);
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
    std::vector<PageId>& pages = runner->pages();
    std::vector<std::byte> host(static_cast<size_t>(runner->kv().layout().bytes_per_page()));
    for (int32_t page = 0; page * kPageTokens < hit; ++page) {
      PageId& from = pages[static_cast<size_t>(page)];
      PageId& to = pages[pages.size() - 1 - static_cast<size_t>(page)];
      if ((page + 1) * kPageTokens <= hit) {
        runner->kv().move({.page = from, .host = host.data(), .to_host = true});
        runner->kv().move({.page = to, .host = host.data(), .to_host = false});
      } else {
        runner->kv().copy({.from = from, .to = to, .num_positions = hit % kPageTokens});
      }
      std::swap(from, to);
      // What the old page holds must not matter any more.
      std::fill(host.begin(), host.end(), std::byte{0xFF});
      runner->kv().move({.page = to, .host = host.data(), .to_host = false});
    }
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
