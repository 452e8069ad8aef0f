// A model over 2 and 4 ranks against the same model on one: teacher-forced logits at every position of the goldens'
// prompts (as prompt) and continuations (as generated tokens), the same bits run to run and on every rank, and memory.
// Ranks are threads with a model, a cache and a thread team each, that meet through Gloo over the loopback.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "sluice/quantize.h"

#include "tests/support/model_runner.h"
#include "tests/support/rank_threads.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

struct Case {
  const char* name;  // "demo", or a folder of tests/golden/transformers
  int ranks;
  ExpertSplit experts = ExpertSplit::kSliced;
  WeightFormat weights = WeightFormat::kF32;
  DType cache = DType::kF32;
};

std::string directory_of(const Case& one) {
  return source_file(std::string_view(one.name) == "demo" ? "configs/demo-moe"
                                                          : fmt::format("tests/golden/transformers/{}", one.name));
}

struct Text {
  std::vector<TokenId> tokens;
  int32_t num_prompt_tokens;
};

// A few prompts of the goldens with their greedy continuations: short ones, and one beyond a page.
std::vector<Text> texts_of(const Case& one) {
  const bool demo = std::string_view(one.name) == "demo";
  std::ifstream file(demo ? source_file("tests/golden/demo-moe/goldens.json") : directory_of(one) + "/goldens.json");
  std::vector<Text> texts;
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const auto& prompt : golden["prompts"]) {
    Text text{prompt["token_ids"], static_cast<int32_t>(prompt["token_ids"].size())};
    const std::vector<TokenId> answer = prompt[demo ? "greedy_32" : "greedy_24"];
    text.tokens.insert(text.tokens.end(), answer.begin(), answer.begin() + 8);
    if (text.tokens.size() < 200) texts.push_back(std::move(text));
  }
  SLUICE_CHECK(texts.size() >= 3, "{} texts", texts.size());
  return texts;
}

// Everything one rank makes of the texts: its part of the logits [positions, own vocab], and the residual streams.
struct Computed {
  std::vector<float> logits, hidden;
  Slice vocab;
  int64_t weight_bytes = 0;
};

Computed compute(const Case& one, Communicator* ranks, std::span<const Text> texts) {
  auto opened = ModelRunner::open(directory_of(one), {.weights = one.weights,
                                                      .cache_dtype = one.cache,
                                                      .threads = ranks ? 1 : 2,
                                                      .ranks = ranks,
                                                      .experts = one.experts});
  SLUICE_CHECK(opened.ok(), "{}", opened.status().to_string());
  ModelRunner& runner = **opened;
  Computed result{.logits = {}, .hidden = {}, .vocab = runner.model().partition().vocab};
  result.weight_bytes = runner.model().weight_bytes();
  const auto keep = [&](const std::vector<float>& logits) {
    result.logits.insert(result.logits.end(), logits.begin(), logits.end());
    result.hidden.insert(result.hidden.end(), runner.hidden().begin(), runner.hidden().end());
  };
  for (const Text& text : texts) {
    keep(runner.compute(text.tokens, 0, text.num_prompt_tokens, TokenRole::kPrompt));
    for (auto position = text.num_prompt_tokens; position < std::ssize(text.tokens); ++position)
      keep(runner.compute(text.tokens, position, position + 1, TokenRole::kGenerated));
  }
  return result;
}

std::vector<Computed> compute_over_ranks(const Case& one, std::span<const Text> texts) {
  std::vector<Computed> all(static_cast<size_t>(one.ranks));
  run_ranks(one.ranks, [&](Group& group) {
    all[static_cast<size_t>(group.ranks().rank())] = compute(one, &group.ranks(), texts);
  });
  return all;
}

// The largest difference of logits relative to the row's largest one, from what differs between one rank and several:
// the output and down projections add their terms in another association, twice a layer, each time by at most
// (terms * 2^-24) of the sum of magnitudes. A cached latent whose last bits differ moves by a bf16 step, once in a product.
//
// Where inputs are quantised, a last bit now and then decides on which side a code falls, and everything behind it differs
// by more; at worst the roundings of both runs have nothing to do with each other. Then each has a variance of s^2 / 12,
// and the difference a root mean square of s / sqrt(6), where the step s is 1/127 of a group's largest: of 32 normal
// values 2.4 deviations. The stream takes such an error of relative size e once a branch, two a layer, and once more at
// the input of the last, and of the head; independent, they add in squares. Largest difference and largest logit of a row
// are taken to be equally many deviations. (What costs no more than that, such as a neighbour's scale, is not seen here.)
double tolerance_of(const Case& one, const ModelConfig& config) {
  const double sums = 2.0 * config.num_hidden_layers;
  const double terms = std::max({config.intermediate_size, config.moe_intermediate_size * config.num_experts_per_tok,
                                 config.num_attention_heads * config.v_head_dim});
  double each = terms * 0x1p-24;
  if (one.cache == DType::kBF16) each += 0x1p-8 / std::sqrt(config.kv_lora_rank);
  const double unrelated = is_quantized(one.weights) ? 2.4 / (127 * std::sqrt(6.0)) * std::sqrt(sums + 2) : 0;
  return sums * each + unrelated;
}

class TensorParallel : public testing::TestWithParam<Case> {};
class TensorParallelMemory : public TensorParallel {};

TEST_P(TensorParallel, LogitsOfOneRankAndTheSameBitsAgain) {
  const Case& one = GetParam();
  const ModelConfig config = ModelConfig::load(directory_of(one)).value();
  const double tolerance = tolerance_of(one, config);
  const std::vector<Text> texts = texts_of(one);
  const Computed whole = compute(one, nullptr, texts);
  const std::vector<Computed> parts = compute_over_ranks(one, texts), again = compute_over_ranks(one, texts);
  const int64_t vocab = config.vocab_size, rows = std::ssize(whole.logits) / vocab;
  ASSERT_GT(rows, 40);
  for (size_t rank = 0; rank < parts.size(); ++rank) {
    EXPECT_TRUE(parts[rank].hidden == parts[0].hidden) << "rank " << rank << " has another residual stream";
    EXPECT_TRUE(parts[rank].logits == again[rank].logits) << "rank " << rank << ": other bits in the second run";
  }
  double worst = 0;
  int64_t clear = 0;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<float> found;
    for (const Computed& part : parts) {
      const float* own = part.logits.data() + row * part.vocab.size();
      found.insert(found.end(), own, own + part.vocab.size());
    }
    ASSERT_EQ(std::ssize(found), vocab);
    const std::span<const float> expected(whole.logits.data() + row * vocab, static_cast<size_t>(vocab));
    double peak = 0, difference = 0;
    for (int64_t i = 0; i < vocab; ++i) {
      const auto at = static_cast<size_t>(i);
      ASSERT_TRUE(std::isfinite(found[at])) << row << ", " << i;
      peak = std::max<double>(peak, std::abs(expected[at]));
      difference = std::max<double>(difference, std::abs(found[at] - expected[at]));
    }
    worst = std::max(worst, difference / peak);
    std::vector<float> best(expected.begin(), expected.end());
    std::partial_sort(best.begin(), best.begin() + 2, best.end(), std::greater<>());
    if (best[0] - best[1] <= 2 * tolerance * peak) continue;
    clear += 1;
    EXPECT_EQ(std::ranges::max_element(found) - found.begin(), std::ranges::max_element(expected) - expected.begin())
        << "row " << row;
  }
  EXPECT_LE(worst, tolerance);
  EXPECT_GT(worst, 0) << "several ranks add in another order: equal bits everywhere mean that nothing was shared";
  EXPECT_GT(clear, rows / 2) << "too few rows whose best token is beyond doubt";
  std::printf(
      "%s over %d ranks: worst difference of a logit %.1e of the row's largest (bound %.1e), %ld of %ld best tokens"
      " beyond doubt\n",
      one.name, one.ranks, worst, tolerance, static_cast<long>(clear), static_cast<long>(rows));
}

// Sharded part over the ranks plus replicated part, within a tenth. What is replicated follows from the config: in f32
// it is 4 bytes a value.
TEST_P(TensorParallelMemory, OfARank) {
  const Case& one = GetParam();
  const ModelConfig c = ModelConfig::load(directory_of(one)).value();
  int64_t replicated = 0;
  for (int32_t layer = 0; layer < c.num_hidden_layers; ++layer) {
    replicated += int64_t{c.q_lora_rank + c.latent_dim()} * c.hidden_size;
    if (c.is_moe_layer(layer)) replicated += int64_t{c.n_routed_experts} * c.hidden_size;
    if (c.index_topk > 0)
      replicated += int64_t{c.index_n_heads} * c.index_head_dim * c.q_lora_rank +
                    int64_t{c.index_head_dim + c.index_n_heads} * c.hidden_size;
  }
  replicated *= 4;
  const auto whole = static_cast<double>(compute(one, nullptr, {}).weight_bytes);
  const double expected = (whole - static_cast<double>(replicated)) / one.ranks + static_cast<double>(replicated);
  for (const Computed& part : compute_over_ranks(one, {}))
    EXPECT_NEAR(static_cast<double>(part.weight_bytes) / expected, 1, 0.1);
}

TEST(TensorParallelShares, WhatIsOneGroupCannotBeShared) {
  const ModelConfig config = ModelConfig::load(source_file("configs/demo-moe")).value();
  const auto partition = Partition::make(config, WeightFormat::kInt8, 1, 2, ExpertSplit::kWhole);
  ASSERT_FALSE(partition.ok());
  EXPECT_EQ(
      partition.status().message(),
      "tp: 2 ranks cannot share moe_intermediate_size * n_shared_experts of 128 in int8: they come in blocks of 128");
}

std::vector<Case> cases() {
#ifdef SLUICE_GLOO
  std::vector<Case> all;
  for (const char* name : {"demo", "v2_lite", "v2_grouped", "v3_noaux", "v3_variant", "v32_index"})
    all.push_back({name, 2});
  for (const char* name : {"demo", "v3_noaux", "v32_index"}) all.push_back({name, 4});
  all.push_back({"v3_noaux", 2, ExpertSplit::kWhole});
  all.push_back({"v3_noaux", 4, ExpertSplit::kWhole});
  all.push_back({"v3_fp8", 2});
  all.push_back({"v32_fp8", 2});
  all.push_back({"demo", 3, ExpertSplit::kWhole});  // 8 heads, 11 blocks of 64, 16 experts, 4096 tokens: all uneven
  all.push_back({"demo", 2, ExpertSplit::kSliced, WeightFormat::kBF16, DType::kBF16});
  all.push_back({"demo", 4, ExpertSplit::kSliced, WeightFormat::kInt4G32});
  all.push_back({"demo", 2, ExpertSplit::kWhole, WeightFormat::kInt4G32});
  return all;
#else
  return {};
#endif
}

// Those whose shares are even and whose replicated part the test can count.
std::vector<Case> memory_cases() {
  std::vector<Case> all = cases();
  std::erase_if(all, [](const Case& one) {
    return one.weights != WeightFormat::kF32 || (one.experts == ExpertSplit::kWhole && one.ranks == 3);
  });
  return all;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  const Case& one = info.param;
  std::string text = fmt::format("{}_{}_{}_{}_{}", one.name, one.ranks,
                                 one.experts == ExpertSplit::kWhole ? "whole" : "sliced", name(one.weights),
                                 name(one.cache));
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

INSTANTIATE_TEST_SUITE_P(Cases, TensorParallel, testing::ValuesIn(cases()), name_of);
INSTANTIATE_TEST_SUITE_P(Cases, TensorParallelMemory, testing::ValuesIn(memory_cases()), name_of);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TensorParallel);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TensorParallelMemory);

}  // namespace
}  // namespace sluice
