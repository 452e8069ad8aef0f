// The draw: each cut alone, their order, the key, penalties, and the distribution that comes out.
#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>

namespace sluice {
namespace {

using testing::ElementsAre;

TokenId draw(std::vector<float> logits, const SamplingParams& params, uint64_t seed = 1,
             std::vector<TokenId> prompt = {0}, std::vector<TokenId> generated = {}, std::vector<TokenId> masked = {}) {
  return sample(logits, {.params = &params, .seed = seed, .prompt = prompt, .generated = generated, .masked = masked});
}

// Which tokens ever come out of 4000 draws, and how often.
std::map<TokenId, int> histogram(const std::vector<float>& logits, const SamplingParams& params) {
  std::map<TokenId, int> counts;
  for (uint64_t seed = 0; seed < 4000; ++seed) ++counts[draw(logits, params, seed)];
  return counts;
}

TEST(Sampler, UniformIsAPureFunctionOfItsKeyAndFillsTheInterval) {
  EXPECT_EQ(uniform_draw(7, 3), uniform_draw(7, 3));
  EXPECT_NE(uniform_draw(7, 3), uniform_draw(7, 4));
  EXPECT_NE(uniform_draw(7, 3), uniform_draw(8, 3));
  std::vector<int> buckets(16, 0);
  for (uint64_t seed = 0; seed < 100; ++seed)
    for (uint64_t position = 0; position < 160; ++position) {
      const double u = uniform_draw(seed, position);
      ASSERT_TRUE(u >= 0 && u < 1);
      ++buckets[static_cast<size_t>(u * 16)];
    }
  // 16000 draws in 16 buckets: mean 1000, sigma 30.6; 5 sigma.
  for (int count : buckets) EXPECT_NEAR(count, 1000, 153);
}

TEST(Sampler, NeighbouringSeedsAndPositionsAreNotCorrelated) {
  double sum_seed = 0, sum_position = 0;
  constexpr int kCount = 20000;
  for (uint64_t i = 0; i < kCount; ++i) {
    sum_seed += (uniform_draw(i, 5) - 0.5) * (uniform_draw(i + 1, 5) - 0.5);
    sum_position += (uniform_draw(5, i) - 0.5) * (uniform_draw(5, i + 1) - 0.5);
  }
  // Products of independent uniforms have sigma 1/12; the mean of 20000 has 5.9e-4; 5 sigma.
  EXPECT_NEAR(sum_seed / kCount, 0, 3e-3);
  EXPECT_NEAR(sum_position / kCount, 0, 3e-3);
}

TEST(Sampler, TemperatureZeroTakesTheLargestAndTheLowerIdOnATie) {
  EXPECT_EQ(draw({1, 3, 3, 2}, {.temperature = 0}), 1);
}

TEST(Sampler, FollowsTheDistribution) {
  const auto counts = histogram({std::log(0.1f), std::log(0.2f), std::log(0.7f)}, {.temperature = 1});
  // sigma of a count of 4000 at p is sqrt(4000 p (1-p)) <= 29; 5 sigma.
  EXPECT_NEAR(counts.at(0), 400, 145);
  EXPECT_NEAR(counts.at(1), 800, 145);
  EXPECT_NEAR(counts.at(2), 2800, 145);
}

TEST(Sampler, TemperatureSharpens) {
  // p ~ (0.2, 0.8)^2 normalised = (1/17, 16/17).
  const auto counts = histogram({std::log(0.2f), std::log(0.8f)}, {.temperature = 0.5f});
  EXPECT_NEAR(counts.at(0), 4000.0 / 17, 75);
}

std::vector<TokenId> support(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<TokenId> tokens;
  for (const auto& [token, count] : histogram(logits, params)) tokens.push_back(token);
  return tokens;
}

TEST(Sampler, TopKKeepsTheKMostLikely) {
  EXPECT_THAT(support({1, 2, 3, 2.5f}, {.temperature = 1, .top_k = 2}), ElementsAre(2, 3));
  EXPECT_THAT(support({1, 1, 1, 1}, {.temperature = 1, .top_k = 2}), ElementsAre(0, 1));
  EXPECT_THAT(support({1, 2}, {.temperature = 1, .top_k = 10}), ElementsAre(0, 1));
}

TEST(Sampler, TopPKeepsTheFewestThatHoldIt) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  EXPECT_THAT(support(logits, {.temperature = 1, .top_p = 0.4f}), ElementsAre(0));
  EXPECT_THAT(support(logits, {.temperature = 1, .top_p = 0.75f}), ElementsAre(0, 1));
  EXPECT_THAT(support(logits, {.temperature = 1, .top_p = 0.9f}), ElementsAre(0, 1, 2));
  EXPECT_THAT(support(logits, {.temperature = 1, .top_p = 1.0f}), ElementsAre(0, 1, 2, 3));
}

TEST(Sampler, TopPNeedsMoreThanTheFirstSortedBlock) {
  // 1000 equal tokens: half of the mass is 500 of them, far beyond the first 64 sorted.
  const std::vector<float> logits(1000, 0.0f);
  for (TokenId token : support(logits, {.temperature = 1, .top_p = 0.5f})) EXPECT_LT(token, 500);
}

TEST(Sampler, MinPCutsBelowAShareOfTheBest) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  EXPECT_THAT(support(logits, {.temperature = 1, .min_p = 0.2f}), ElementsAre(0, 1, 2));
}

TEST(Sampler, PenaltiesAndBias) {
  const SamplingParams repetition{.temperature = 0, .repetition_penalty = 2.0f};
  EXPECT_EQ(draw({3, 2, 0}, repetition, 1, {0}), 1);        // 3 / 2 < 2: the prompt counts
  EXPECT_EQ(draw({-1, -1.5f, -9}, repetition, 1, {0}), 1);  // -1 * 2 < -1.5
  const SamplingParams presence{.temperature = 0, .presence_penalty = 1.5f};
  EXPECT_EQ(draw({3, 2, 0}, presence, 1, {0}, {}), 0);  // the prompt does not count
  EXPECT_EQ(draw({3, 2, 0}, presence, 1, {1}, {0}), 1);
  const SamplingParams frequency{.temperature = 0, .frequency_penalty = 0.6f};
  EXPECT_EQ(draw({3, 2, 0}, frequency, 1, {1}, {0}), 0);
  EXPECT_EQ(draw({3, 2, 0}, frequency, 1, {1}, {0, 0}), 1);  // 3 - 1.2 < 2
  EXPECT_EQ(draw({3, 2, 0}, {.temperature = 0, .logit_bias = {{2, 4.0f}}}), 2);
  EXPECT_EQ(draw({3, 2, 0}, {.temperature = 0}, 1, {0}, {}, {0, 1}), 2);  // masked
}

TEST(Sampler, LogProbabilitiesAreTheSoftmaxOfTheLogits) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 4);
  std::vector<float> logits(500);
  for (float& logit : logits) logit = normal(random);
  double sum = 0;
  for (float logit : logits) sum += std::exp(double{logit});
  const auto result = log_probabilities(logits, 17, 3);
  ASSERT_EQ(result.size(), 4u);
  EXPECT_EQ(result[0].token, 17);
  for (const TokenLogprob& entry : result)
    EXPECT_NEAR(entry.logprob, logits[static_cast<size_t>(entry.token)] - std::log(sum), 1e-5);
  EXPECT_GE(result[1].logprob, result[2].logprob);
  EXPECT_EQ(result[1].token, std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(Sampler, OnlyWhatIsAllowedIsDrawnWhateverTheRestOfTheParameters) {
  const std::vector<uint32_t> allowed = {0b1010};
  for (const SamplingParams& params :
       {SamplingParams{.temperature = 0}, SamplingParams{.temperature = 1.5f},
        SamplingParams{.temperature = 1, .top_k = 1}, SamplingParams{.temperature = 1, .top_p = 0.01f},
        SamplingParams{.temperature = 1, .min_p = 1.0f}}) {
    std::map<TokenId, int> counts;
    for (uint64_t seed = 0; seed < 500; ++seed) {
      std::vector<float> logits = {9, 1, 8, 1.5f, 7};
      ++counts[sample(logits, {.params = &params, .seed = seed, .allowed = allowed})];
    }
    for (const auto& [token, count] : counts) EXPECT_TRUE(token == 1 || token == 3) << token;
    EXPECT_EQ(counts.size(), params.temperature == 1.5f ? 2u : 1u);
  }
}

}  // namespace
}  // namespace sluice
