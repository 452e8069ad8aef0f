// Sampling on the emulated grid against the host's sampler: the same tokens from the same logits and keys, through
// every cut, penalty and tie; and log probabilities to counted roundings.
#include "kernels/cuda/sampling/sampling.h"

#include <map>

#include "engine/sampler.h"
#include "kernels/cuda/fixed_exp.cuh"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

void weigh(const float* x, uint64_t* weights, int32_t count) {
  for (auto i = static_cast<int32_t>(threadIdx.x); i < count; i += 32) weights[i] = fixed_exp(x[i]);
}

TEST(CudaSampling, WeightsAreExpToHalfAUnit) {
  std::vector<float> x{0,       1e-30f, 0x1p-46f, 0x1p-20f, 0.0866f, 0.125f, 0.6931f,
                       0.6932f, 1,      30.5f,    31.2f,    39.99f,  63.9f};
  for (int64_t i = 0; i < 4000; ++i) x.push_back(std::abs(value_at(1, i, i % 2 == 0 ? 1 : 20)));
  std::vector<uint64_t> weights(x.size());
  launch(weigh, dim3(1), dim3(32), 0, nullptr, x.data(), weights.data(), static_cast<int32_t>(x.size()));
  EXPECT_EQ(weights[0], uint64_t{1} << kWeightBits);
  for (size_t i = 0; i < x.size(); ++i) {
    const long double want = std::exp(-static_cast<long double>(x[i])) * 0x1p44L;
    // Half for the last rounding; the series stops at 2^-50, a dozen truncated products of 2^-62 are far below.
    ASSERT_LE(std::abs(static_cast<long double>(weights[i]) - want), 0.5L + 0x1p-5L) << x[i];
  }
}

// A row of logits and what is to be drawn from it.
struct Draw {
  std::vector<float> logits;
  SamplingParams params;
  uint64_t seed = 0;
  std::vector<TokenId> prompt, generated, masked;

  SampleRow row() const {
    return {params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            params.repetition_penalty,
            params.presence_penalty,
            params.frequency_penalty,
            seed,
            prompt.size() + generated.size()};
  }
  // One edit for every token that anything says something of.
  std::vector<LogitEdit> edits(int32_t row) const {
    std::map<TokenId, LogitEdit> result;
    const auto edit = [&](TokenId token) -> LogitEdit& {
      return result.try_emplace(token, LogitEdit{.row = row, .token = token}).first->second;
    };
    for (const auto& [token, bias] : params.logit_bias) edit(token).bias = bias;
    for (const TokenId token : prompt) edit(token).count = std::max(edit(token).count, 0);
    for (const TokenId token : generated) edit(token).count = std::max(edit(token).count, 0) + 1;
    for (const TokenId token : masked) edit(token).masked = true;
    std::vector<LogitEdit> list;
    for (const auto& [token, value] : result) list.push_back(value);
    return list;
  }
};

std::vector<TokenId> sample_on_host(std::vector<Draw> draws) {
  std::vector<TokenId> tokens;
  for (Draw& d : draws)
    tokens.push_back(sluice::sample(
        d.logits,
        {.params = &d.params, .seed = d.seed, .prompt = d.prompt, .generated = d.generated, .masked = d.masked}));
  return tokens;
}

// All rows in one launch; the logits must be as before afterwards.
std::vector<TokenId> sample_on_grid(const std::vector<Draw>& draws, uint64_t seed) {
  grid::configure({.seed = seed});
  const auto vocab = static_cast<int32_t>(draws[0].logits.size()), rows = static_cast<int32_t>(draws.size());
  std::vector<float> logits;
  std::vector<SampleRow> sample_rows;
  std::vector<LogitEdit> edits;
  for (int32_t i = 0; i < rows; ++i) {
    const Draw& d = draws[static_cast<size_t>(i)];
    logits.insert(logits.end(), d.logits.begin(), d.logits.end());
    sample_rows.push_back(d.row());
    const std::vector<LogitEdit> more = d.edits(i);
    edits.insert(edits.end(), more.begin(), more.end());
  }
  Guarded<float> changed(logits), before(static_cast<int64_t>(edits.size()));
  Guarded<int32_t> tokens(rows);
  const EditLogitsParams edit{.logits = changed.data(),
                              .rows = sample_rows.data(),
                              .edits = edits.data(),
                              .before = before.data(),
                              .num_edits = static_cast<int32_t>(edits.size()),
                              .vocab = vocab};
  edit_logits(edit, nullptr);
  sample({.logits = changed.data(), .draws = sample_rows.data(), .tokens = tokens.data(), .rows = rows, .vocab = vocab},
         nullptr);
  restore_logits(edit, nullptr);
  EXPECT_TRUE(changed.guards_intact() && before.guards_intact() && tokens.guards_intact());
  expect_same_bits(changed.values(), logits, vocab, "restored logits");
  return {tokens.values().begin(), tokens.values().end()};
}

constexpr int32_t kVocab = 1234;

// Every cut alone and all together, over flat and sharp rows; seeds of their own, so that each row draws elsewhere.
std::vector<Draw> many_draws() {
  std::vector<SamplingParams> ways;
  for (const float temperature : {0.0f, 0.3f, 1.0f, 1.7f})
    for (const int32_t top_k : {0, 1, 40, 5000})
      for (const float top_p : {1.0f, 0.9f, 0.05f})
        for (const float min_p : {0.0f, 0.2f})
          ways.push_back({.temperature = temperature, .top_k = top_k, .top_p = top_p, .min_p = min_p});
  std::vector<Draw> draws;
  for (size_t i = 0; i < ways.size(); ++i)
    draws.push_back(
        {.logits = random_values(kVocab, i, i % 2 == 0 ? 3 : 0.5), .params = ways[i], .seed = i * 77, .prompt = {5}});
  return draws;
}

// A third of the ways under each order of threads.
TEST(CudaSampling, DrawsTheTokensOfTheHost) {
  const std::vector<Draw> all = many_draws();
  for (const uint64_t seed : kSeeds) {
    std::vector<Draw> draws;
    for (size_t i = seed - 1; i < all.size(); i += std::size(kSeeds)) draws.push_back(all[i]);
    const std::vector<TokenId> want = sample_on_host(draws), got = sample_on_grid(draws, seed);
    for (size_t i = 0; i < draws.size(); ++i) {
      const SamplingParams& p = draws[i].params;
      ASSERT_EQ(got[i], want[i]) << fmt::format("temperature {} top_k {} top_p {} min_p {} seed {}", p.temperature,
                                                p.top_k, p.top_p, p.min_p, seed);
    }
  }
}

// Logits of few different values: most of a cut falls among equals.
TEST(CudaSampling, TiesGoToTheLowerId) {
  std::vector<Draw> draws = many_draws();
  for (size_t i = 0; i < draws.size(); ++i)
    for (size_t j = 0; j < draws[i].logits.size(); ++j)
      draws[i].logits[j] = i % 3 == 0 ? 0.0f : static_cast<float>(random_bits(i, static_cast<int64_t>(j)) % 4);
  draws[0].logits[0] = -0.0f;
  EXPECT_EQ(sample_on_grid(draws, 1), sample_on_host(draws));
}

TEST(CudaSampling, PenaltiesBiasAndMasks) {
  std::vector<Draw> draws;
  for (uint64_t i = 0; i < 24; ++i) {
    Draw d{.logits = random_values(64, i, 2), .params = {.temperature = i % 4 == 0 ? 0.0f : 1.0f}, .seed = i};
    if (i % 2 == 0) d.params.repetition_penalty = 1.3f;
    if (i % 3 == 0) d.params.presence_penalty = 0.7f;
    if (i % 5 != 0) d.params.frequency_penalty = 0.37f;
    if (i % 4 != 1) d.params.logit_bias = {{3, 2.5f}, {9, -100.0f}, {11, 1.75f}};
    for (int64_t j = 0; j < 30; ++j) d.prompt.push_back(static_cast<TokenId>(random_bits(i, j) % 40));
    for (int64_t j = 30; j < 60; ++j) d.generated.push_back(static_cast<TokenId>(random_bits(i, j) % 20));
    for (TokenId token = 0; token < 64; token += i % 2 == 0 ? 5 : 64) d.masked.push_back(token);
    draws.push_back(d);
  }
  for (const uint64_t seed : kSeeds) EXPECT_EQ(sample_on_grid(draws, seed), sample_on_host(draws));
}

TEST(CudaSampling, ARowWithoutNumbersYieldsAToken) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
  std::vector<Draw> draws;
  for (const SamplingParams& params : {SamplingParams{.temperature = 0}, SamplingParams{.top_k = 3, .top_p = 0.5f}}) {
    draws.push_back({.logits = std::vector<float>(40, kNaN), .params = params});
    draws.push_back({.logits = std::vector<float>(40, -kInf), .params = params});
    draws.push_back({.logits = std::vector<float>(40, 1), .params = params});
    draws.back().logits[7] = kInf;
    draws.push_back({.logits = std::vector<float>(40, -kInf), .params = params});
    draws.back().logits[9] = -3;
  }
  EXPECT_EQ(sample_on_grid(draws, 1), (std::vector<TokenId>{0, 0, 7, 9, 0, 0, 7, 9}));
}

TEST(CudaSampling, LogProbabilities) {
  for (const auto& [vocab, num_top, rows] : {std::tuple{kVocab, 20, 5}, {kVocab, 0, 2}, {7, 32, 1}, {100, 1, 3}}) {
    std::vector<float> logits;
    for (int32_t row = 0; row < rows; ++row) {
      const std::vector<float> values = random_values(vocab, static_cast<uint64_t>(row), 1 + 3 * row);
      logits.insert(logits.end(), values.begin(), values.end());
      logits[logits.size() - 2] = logits.back() = 2;  // a tie
    }
    const std::vector<int32_t> ids = shuffled(rows, 1);
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < rows; ++i) tokens.push_back(i * 3 % vocab);
    for (const uint64_t seed : kSeeds) {
      grid::configure({.seed = seed});
      Guarded<float> token_logprobs(rows), top_logprobs(int64_t{rows} * num_top);
      Guarded<int32_t> top_tokens(int64_t{rows} * num_top);
      log_probabilities({.logits = logits.data(),
                         .row_ids = ids.data(),
                         .tokens = tokens.data(),
                         .token_logprobs = token_logprobs.data(),
                         .top_tokens = top_tokens.data(),
                         .top_logprobs = top_logprobs.data(),
                         .rows = rows,
                         .vocab = vocab,
                         .num_top = num_top},
                        nullptr);
      EXPECT_TRUE(token_logprobs.guards_intact() && top_logprobs.guards_intact() && top_tokens.guards_intact());
      for (int32_t i = 0; i < rows; ++i) {
        const auto row = std::span(logits).subspan(static_cast<size_t>(ids[static_cast<size_t>(i)] * vocab),
                                                   static_cast<size_t>(vocab));
        const std::vector<TokenLogprob> want = sluice::log_probabilities(row, tokens[static_cast<size_t>(i)], num_top);
        // The sum rounded once, its logarithm twice (at most 2^-21 for the few units that it has), two differences.
        const auto near = [&](float got, float expected) {
          return std::abs(got - expected) <= 0x1p-21 + 4 * kUnit * std::abs(expected);
        };
        EXPECT_TRUE(near(token_logprobs[i], want[0].logprob)) << token_logprobs[i] << " " << want[0].logprob;
        for (int32_t j = 0; j < num_top; ++j) {
          const int64_t at = int64_t{i} * num_top + j;
          if (j >= vocab) {
            EXPECT_EQ(top_tokens[at], -1);
            continue;
          }
          EXPECT_EQ(top_tokens[at], want[static_cast<size_t>(j) + 1].token) << "row " << i << " place " << j;
          EXPECT_TRUE(near(top_logprobs[at], want[static_cast<size_t>(j) + 1].logprob))
              << "row " << i << " place " << j;
        }
      }
    }
  }
}

TEST(CudaSamplingDeathTest, LimitsAreChecked) {
  EXPECT_DEATH(sample({.rows = 1, .vocab = kMaxVocab + 1}, nullptr), "found 524289");
  EXPECT_DEATH(log_probabilities({.rows = 1, .vocab = 10, .num_top = 33}, nullptr), "found 33");
}

}  // namespace
}  // namespace sluice::cuda
