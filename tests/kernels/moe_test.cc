// Routing (exact experts, weights to derived ulps), permutation (stable, complete), combination (the oracle's bits).
#include <string>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {
namespace {

struct Router {
  int32_t num_experts, num_groups, top_groups, top_k;
  ScoringFunc scoring;
  bool normalize;
  float scale;
  bool bias;

  std::string text() const {
    const char* const names[] = {"softmax", "sigmoid", "sqrt-softplus"};
    return fmt::format("experts={} groups={}/{} top={} {}{}{} scale={}", num_experts, top_groups, num_groups, top_k,
                       names[static_cast<int>(scoring)], normalize ? " normalized" : "", bias ? " bias" : "", scale);
  }
};

constexpr ScoringFunc kSoftmax = ScoringFunc::kSoftmax, kSigmoid = ScoringFunc::kSigmoid,
                      kSqrtSoftplus = ScoringFunc::kSqrtSoftplus;

constexpr Router kLite{64, 1, 1, 6, kSoftmax, false, 1, false};
constexpr Router kV2{160, 8, 3, 6, kSoftmax, false, 16, false};
constexpr Router kV3{256, 8, 4, 8, kSigmoid, true, 2.5f, true};
constexpr Router kRouters[] = {
    kLite,
    kV2,
    kV3,
    {7, 1, 1, 7, kSoftmax, true, 1, false},  // all experts chosen: a full sort
    {12, 4, 2, 3, kSoftmax, true, 0.5f, false},
    {12, 4, 2, 3, kSigmoid, false, 1, true},
    {33, 3, 1, 5, kSigmoid, true, 1, false},
    {8, 8, 3, 2, kSigmoid, true, 1, true},  // groups of one
    {1, 1, 1, 1, kSoftmax, true, 1, false},
    {384, 1, 1, 8, kSigmoid, true, 2.8f, true},
    {512, 1, 1, 1, kSoftmax, false, 1, false},
    {256, 1, 1, 6, kSqrtSoftplus, true, 1.5f, true},  // V4 Flash
    {384, 1, 1, 6, kSqrtSoftplus, true, 2.5f, true},  // V4 Pro
    {33, 3, 2, 5, kSqrtSoftplus, false, 1, false},
};

struct Routes {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Routes route(const Backend& backend, const Router& r, int64_t rows, const std::vector<float>& logits,
             const std::vector<float>& bias, OpContext& context) {
  Guarded<int32_t> experts(rows * r.top_k);
  Guarded<float> weights(rows * r.top_k);
  backend.route({.logits = logits.data(),
                 .bias = r.bias ? bias.data() : nullptr,
                 .rows = rows,
                 .num_experts = r.num_experts,
                 .num_groups = r.num_groups,
                 .top_groups = r.top_groups,
                 .top_k = r.top_k,
                 .scoring = r.scoring,
                 .normalize = r.normalize,
                 .scale = r.scale,
                 .experts = experts.data(),
                 .weights = weights.data()},
                context);
  EXPECT_TRUE(experts.guards_intact() && weights.guards_intact()) << backend.name << " " << r.text();
  return {{experts.values().begin(), experts.values().end()}, {weights.values().begin(), weights.values().end()}};
}

// Numerator and denominator each carry exp (3 u) and the rounding of logit - peak (u times the spread); the sum of the
// experts adds a rounding per lane step and 4 folds, the sum of the chosen top_k; quotients, scale and the oracle 6.
// A sqrt-softplus score stays below that: exp 3, the logarithm 5, a sum, of which the root leaves the half, and its own.
double weight_bound(const Router& r, double spread) {
  return kUnit * (2 * (3 + std::max(2.5, spread)) + r.num_experts / 16.0 + 4 + r.top_k + 6);
}

void expect_routes(const Backend& backend, const Router& r, int64_t rows, const std::vector<float>& logits,
                   const std::vector<float>& bias, int threads = 1) {
  TestContext context(threads);
  const Routes got = route(backend, r, rows, logits, bias, context);
  const Routes want = route(oracle(), r, rows, logits, bias, context);
  for (size_t i = 0; i < want.experts.size(); ++i)
    ASSERT_EQ(got.experts[i], want.experts[i]) << r.text() << " at " << coordinate(i, r.top_k);
  double spread = 0;
  if (!logits.empty())
    spread = *std::max_element(logits.begin(), logits.end()) - *std::min_element(logits.begin(), logits.end());
  const double bound = weight_bound(r, spread);
  expect_close(
      got.weights, want.weights, r.top_k, bound, [&](size_t i) { return bound * std::abs(want.weights[i]); }, r.text());
}

class RouteTest : public BackendTest {};
class PermuteTest : public BackendTest {};
class CombineTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(RouteTest);
SLUICE_FOR_PRODUCT_BACKENDS(PermuteTest);
SLUICE_FOR_PRODUCT_BACKENDS(CombineTest);

TEST_P(RouteTest, MatchesTheOracle) {
  for (const Router& r : kRouters)
    for (int64_t rows : {0, 1, 7, 50})
      for (double deviation : {0.5, 3.0})
        expect_routes(backend(), r, rows, random_values(rows * r.num_experts, 1, deviation),
                      random_values(r.num_experts, 2, 0.3));
}

// Two levels of logits only: almost everything is a tie, so the ids are what the tie rule says.
TEST_P(RouteTest, TiesGoToTheLowerId) {
  for (const Router& r : kRouters) {
    const int64_t rows = 30;
    std::vector<float> logits, bias(static_cast<size_t>(r.num_experts), 0.125f);
    for (int64_t i = 0; i < rows * r.num_experts; ++i) logits.push_back(random_bits(3, i) % 4 == 0 ? 1.0f : 0.0f);
    expect_routes(backend(), r, rows, logits, bias);
  }
  // By hand: all equal.
  for (const Router& r : kRouters) {
    const std::vector<float> equal(static_cast<size_t>(r.num_experts), 0.25f);
    TestContext context;
    const Routes got = route(backend(), r, 1, equal, std::vector<float>(equal.size(), -0.5f), context);
    for (int32_t slot = 0; slot < r.top_k; ++slot) EXPECT_EQ(got.experts[static_cast<size_t>(slot)], slot) << r.text();
  }
}

// By hand, independent of the oracle: 4 experts in 2 groups, sigmoid. Scores .5 .5 | .731 .269; the bias lifts
// expert 1.
TEST_P(RouteTest, BiasChoosesAndScoresWeigh) {
  const Router r{4, 2, 1, 2, kSigmoid, true, 2, true};
  const std::vector<float> logits = {0, 0, 1, -1}, bias = {0, 0.4f, 0, -5};
  TestContext context;
  const Routes got = route(backend(), r, 1, logits, bias, context);
  EXPECT_EQ(got.experts, (std::vector<int32_t>{1, 0}));  // group 0: .9 + .5; group 1: .731 - 4.731
  EXPECT_EQ(got.weights, (std::vector<float>{1, 1}));    // .5 / (.5 + .5) * 2: the bias does not weigh
}

// sqrt(log(1 + e^z)) by numbers from outside (Python, in double), far from and close to zero.
TEST_P(RouteTest, SqrtSoftplusByHand) {
  const Router r{5, 1, 1, 5, kSqrtSoftplus, false, 1, false};
  TestContext context;
  const Routes got = route(backend(), r, 1, {0, 1, -3, 30, -20}, {}, context);
  EXPECT_EQ(got.experts, (std::vector<int32_t>{3, 1, 0, 2, 4}));
  const double want[] = {5.477225575051669, 1.145976303209723, 0.8325546111576977, 0.2204253877704246, 4.5399929739090794e-5};
  for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(got.weights[i], want[i], 5.5 * kUnit * want[i]) << i;
}

// Every score on its own, from where it is zero to where it is the logit's root.
TEST_P(RouteTest, SqrtSoftplusIsAccurateEverywhere) {
  const Router r{2, 1, 1, 2, kSqrtSoftplus, false, 1, false};
  constexpr int64_t kRows = 20'000;
  std::vector<float> logits;
  for (int64_t i = 0; i < kRows; ++i) {
    logits.push_back(1000);  // always the first
    logits.push_back(-87 + 175 * static_cast<float>(i) / kRows);
  }
  TestContext context;
  const Routes got = route(backend(), r, kRows, logits, {}, context);
  for (size_t row = 0; row < kRows; ++row) {
    const double z = logits[2 * row + 1], want = std::sqrt(std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))));
    ASSERT_NEAR(got.weights[2 * row + 1], want, 5.5 * kUnit * want) << "logit " << z;
  }
}

// A hash-routed layer: the token's row of the table, whatever the scores and the bias say; the scores weigh.
TEST_P(RouteTest, HashRoutedExpertsComeFromTheTable) {
  const int32_t experts = 37, top_k = 3, vocab = 50;
  const int64_t rows = 40;
  std::vector<int32_t> table;
  for (int32_t token = 0; token < vocab; ++token) {
    const std::vector<int32_t> order = shuffled(experts, static_cast<uint64_t>(token));
    table.insert(table.end(), order.begin(), order.begin() + top_k);
  }
  const std::vector<float> logits = random_values(rows * experts, 5, 3), bias = random_values(experts, 6);
  std::vector<TokenId> tokens;
  for (int64_t row = 0; row < rows; ++row) tokens.push_back(static_cast<TokenId>(random_bits(7, row) % vocab));
  const auto run = [&](const Backend& on) {
    Guarded<int32_t> ids(rows * top_k);
    Guarded<float> weights(rows * top_k);
    TestContext context(2);
    on.route({.logits = logits.data(), .bias = bias.data(), .rows = rows, .num_experts = experts, .top_k = top_k,
              .scoring = kSqrtSoftplus, .table = table.data(), .tokens = tokens.data(), .normalize = true,
              .scale = 1.5f, .experts = ids.data(), .weights = weights.data()},
             context);
    EXPECT_TRUE(ids.guards_intact() && weights.guards_intact());
    return Routes{{ids.values().begin(), ids.values().end()}, {weights.values().begin(), weights.values().end()}};
  };
  const Routes got = run(backend()), want = run(oracle());
  for (size_t i = 0; i < got.experts.size(); ++i) {
    const size_t token = static_cast<size_t>(tokens[i / top_k]);
    ASSERT_EQ(got.experts[i], table[token * top_k + i % top_k]) << coordinate(i, top_k);
    ASSERT_EQ(want.experts[i], got.experts[i]);
    EXPECT_NEAR(got.weights[i], want.weights[i], (2 * 5.5 + top_k + 6) * kUnit * want.weights[i]);
  }
}

TEST_P(RouteTest, WeightsOfFarExpertsAreAccurate) {
  // Two experts, the second t below: e^-t / (1 + e^-t) shows exp's relative error for negative arguments.
  const Router r{2, 1, 1, 2, kSoftmax, false, 1, false};
  constexpr int64_t kRows = 20'000;
  std::vector<float> logits;
  for (int64_t i = 0; i < kRows; ++i) {
    logits.push_back(0);
    logits.push_back(-87 * static_cast<float>(i) / kRows);
  }
  TestContext context;
  const Routes got = route(backend(), r, kRows, logits, {}, context);
  for (size_t row = 0; row < kRows; ++row) {
    ASSERT_EQ(got.experts[2 * row], 0) << row;
    const double e = std::exp(double{logits[2 * row + 1]}), want = e / (1 + e);
    // The logit's difference to the peak 0 is exact here: exp, sum, quotient.
    ASSERT_NEAR(got.weights[2 * row + 1], want, want * (3 + 3) * kUnit) << "logit " << logits[2 * row + 1];
  }
}

TEST_P(RouteTest, ExtremeLogitsStayInRange) {
  for (const Router& r : kRouters) {
    const int64_t rows = 6;
    std::vector<float> logits;
    for (int64_t i = 0; i < rows * r.num_experts; ++i) {
      const float extremes[] = {0, 80, -80, 1e4f, -1e4f};
      logits.push_back(extremes[random_bits(9, i) % 5]);
    }
    TestContext context;
    const Routes got =
        route(backend(), r, rows, logits, std::vector<float>(static_cast<size_t>(r.num_experts)), context);
    for (size_t i = 0; i < got.experts.size(); ++i) {
      EXPECT_TRUE(got.experts[i] >= 0 && got.experts[i] < r.num_experts) << r.text();
      EXPECT_TRUE(std::isfinite(got.weights[i]) && got.weights[i] >= 0) << r.text() << " " << got.weights[i];
    }
  }
}

// A broken row must not index outside the expert tables, nor harm its neighbours.
TEST_P(RouteTest, NotANumberYieldsValidIdsAndHarmsNobody) {
  for (const Router& r : kRouters) {
    std::vector<float> logits = random_values(3 * r.num_experts, 1);
    const std::vector<float> bias = random_values(r.num_experts, 2, 0.3);
    TestContext context;
    const Routes before = route(backend(), r, 3, logits, bias, context);
    std::fill_n(logits.begin() + r.num_experts, r.num_experts, std::numeric_limits<float>::quiet_NaN());
    const Routes after = route(backend(), r, 3, logits, bias, context);
    for (size_t i = 0; i < after.experts.size(); ++i) {
      const bool broken = i / static_cast<size_t>(r.top_k) == 1;
      EXPECT_TRUE(after.experts[i] >= 0 && after.experts[i] < r.num_experts) << r.text();
      EXPECT_EQ(std::isnan(after.weights[i]), broken) << r.text();
      if (!broken) {
        EXPECT_EQ(after.experts[i], before.experts[i]) << r.text();
      }
    }
  }
}

TEST_P(RouteTest, SameBitsForAnyTeamBatchAndInstructionSet) {
  for (const Router& r : kRouters) {
    const int64_t rows = 70;
    const std::vector<float> logits = random_values(rows * r.num_experts, 1, 2);
    const std::vector<float> bias = random_values(r.num_experts, 2, 0.3);
    TestContext single;
    const Routes want = route(*product_backends().front(), r, rows, logits, bias, single);
    for (int threads : {1, 2, 3}) {
      TestContext context(threads);
      const Routes got = route(backend(), r, rows, logits, bias, context);
      EXPECT_EQ(got.experts, want.experts) << r.text();
      expect_same_bits(got.weights, want.weights, r.top_k, r.text());
    }
    const std::vector<float> last(logits.end() - r.num_experts, logits.end());
    const Routes alone = route(backend(), r, 1, last, bias, single);
    expect_same_bits(alone.weights, std::span(want.weights).last(static_cast<size_t>(r.top_k)), r.top_k, r.text());
  }
}

struct Permutation {
  std::vector<int32_t> offsets, row_ids, places;
};

Permutation permute(const Backend& backend, const std::vector<int32_t>& experts, int64_t rows, int32_t top_k,
                    int32_t num_experts, OpContext& context) {
  Guarded<int32_t> offsets(num_experts + 1), row_ids(rows * top_k), places(rows * top_k);
  backend.permute({.experts = experts.data(),
                   .rows = rows,
                   .top_k = top_k,
                   .num_experts = num_experts,
                   .offsets = offsets.data(),
                   .row_ids = row_ids.data(),
                   .places = places.data()},
                  context);
  EXPECT_TRUE(offsets.guards_intact() && row_ids.guards_intact() && places.guards_intact()) << backend.name;
  const auto copy = [](const Guarded<int32_t>& g) {
    return std::vector<int32_t>(g.values().begin(), g.values().end());
  };
  return {copy(offsets), copy(row_ids), copy(places)};
}

TEST_P(PermuteTest, SortsByExpertStable) {
  struct Case {
    int64_t rows;
    int32_t top_k, num_experts;
    int32_t only = -1;  // all tokens to this expert
  };
  for (const Case& c : {Case{0, 6, 64},
                        {1, 1, 1},
                        {1, 6, 64},
                        {5, 3, 7},
                        {13, 6, 64},
                        {300, 6, 64},
                        {64, 8, 256},
                        {17, 8, 512},
                        {40, 1, 64, 63},
                        {40, 1, 64, 0}}) {
    std::vector<int32_t> experts;
    for (int64_t row = 0; row < c.rows; ++row) {
      const std::vector<int32_t> order = shuffled(c.num_experts, 1000 + static_cast<uint64_t>(row));
      for (int32_t slot = 0; slot < c.top_k; ++slot)
        experts.push_back(c.only >= 0 ? c.only : order[static_cast<size_t>(slot)]);
    }
    TestContext context;
    const Permutation p = permute(backend(), experts, c.rows, c.top_k, c.num_experts, context);
    const std::string what = fmt::format("rows {} experts {}", c.rows, c.num_experts);
    ASSERT_EQ(p.offsets.front(), 0) << what;
    ASSERT_EQ(p.offsets.back(), c.rows * c.top_k) << what;
    std::vector<int32_t> pair_at(experts.size(), -1);  // sorted place -> (row, slot)
    for (size_t pair = 0; pair < experts.size(); ++pair) {
      const int32_t place = p.places[pair];
      ASSERT_TRUE(place >= p.offsets[static_cast<size_t>(experts[pair])] &&
                  place < p.offsets[static_cast<size_t>(experts[pair]) + 1])
          << what << " pair " << pair;
      ASSERT_EQ(pair_at[static_cast<size_t>(place)], -1) << what << ": place " << place << " taken twice";
      pair_at[static_cast<size_t>(place)] = static_cast<int32_t>(pair);
      ASSERT_EQ(p.row_ids[static_cast<size_t>(place)], static_cast<int32_t>(pair) / c.top_k) << what;
    }
    for (int32_t e = 0; e < c.num_experts; ++e) {
      const auto begin = pair_at.begin() + p.offsets[static_cast<size_t>(e)];
      ASSERT_TRUE(std::is_sorted(begin, pair_at.begin() + p.offsets[static_cast<size_t>(e) + 1])) << what << " " << e;
    }
    const Permutation want = permute(oracle(), experts, c.rows, c.top_k, c.num_experts, context);
    EXPECT_EQ(p.offsets, want.offsets) << what;
    EXPECT_EQ(p.row_ids, want.row_ids) << what;
    EXPECT_EQ(p.places, want.places) << what;
  }
}

// An ascending chain of fmas over the slots, then shared, then the residual: the oracle's bits.
TEST_P(CombineTest, GivesTheOraclesBits) {
  struct Case {
    int64_t rows, hidden;
    int32_t top_k;
    bool shared;
  };
  for (const Case& c : {Case{0, 64, 6, true},
                        {1, 1, 1, false},
                        {3, 17, 6, true},
                        {7, 100, 2, false},
                        {13, 2048, 6, true},
                        {2, 7168, 8, true},
                        {40, 520, 6, true}}) {
    const int64_t pairs = c.rows * c.top_k;
    const std::vector<float> y = random_values(pairs * c.hidden, 1), weights = random_values(pairs, 2),
                             shared = random_values(c.rows * c.hidden, 3), x0 = random_values(c.rows * c.hidden, 4);
    const std::vector<int32_t> places = shuffled(static_cast<int32_t>(pairs), 5);
    const auto run = [&](const Backend& backend, int threads) {
      TestContext context(threads);
      Guarded<float> x(x0);
      backend.combine({.y = y.data(),
                       .places = places.data(),
                       .weights = weights.data(),
                       .shared = c.shared ? shared.data() : nullptr,
                       .x = x.data(),
                       .rows = c.rows,
                       .hidden = c.hidden,
                       .top_k = c.top_k},
                      context);
      EXPECT_TRUE(x.guards_intact()) << backend.name;
      return std::vector<float>(x.values().begin(), x.values().end());
    };
    const std::vector<float> want = run(oracle(), 1);
    for (int threads : {1, 2, 3})
      expect_same_bits(run(backend(), threads), want, c.hidden,
                       fmt::format("rows {} hidden {} threads {}", c.rows, c.hidden, threads));
  }
}

}  // namespace
}  // namespace sluice
