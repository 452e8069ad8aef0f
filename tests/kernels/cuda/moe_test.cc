// Routing, permutation and combination on the emulated grid against the oracle: exact experts and places, weights to
// counted roundings, combined rows to the bit.
#include "kernels/cuda/moe/moe.h"

#include <algorithm>

#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

struct Router {
  int32_t num_experts, num_groups, top_groups, top_k;
  ScoringFunc scoring;
  bool normalize;
  float scale;
  bool bias;

  std::string text() const {
    return fmt::format("experts={} groups={}/{} top={} scoring={} normalize={} bias={} scale={}", num_experts,
                       top_groups, num_groups, top_k, static_cast<int>(scoring), normalize, bias, scale);
  }
};

constexpr auto kSoftmax = ScoringFunc::kSoftmax, kSigmoid = ScoringFunc::kSigmoid,
               kSqrtSoftplus = ScoringFunc::kSqrtSoftplus;

constexpr Router kRouters[] = {
    {64, 1, 1, 6, kSoftmax, false, 1, false},    // V2-Lite
    {160, 8, 3, 6, kSoftmax, false, 16, false},  // V2
    {256, 8, 4, 8, kSigmoid, true, 2.5f, true},  // V3
    {384, 1, 1, 8, kSigmoid, true, 2.8f, true},      {512, 32, 5, 32, kSigmoid, true, 1, true},
    {512, 1, 1, 1, kSoftmax, false, 1, false},       {7, 1, 1, 7, kSoftmax, true, 1, false},  // all chosen: a full sort
    {12, 4, 2, 3, kSoftmax, true, 0.5f, false},      {33, 3, 1, 5, kSigmoid, false, 1, true},
    {8, 8, 3, 2, kSigmoid, true, 1, true},                                                             // groups of one
    {1, 1, 1, 1, kSoftmax, true, 1, false},          {256, 1, 1, 6, kSqrtSoftplus, true, 1.5f, true},  // V4
    {384, 1, 1, 6, kSqrtSoftplus, true, 2.5f, true}, {12, 4, 2, 3, kSqrtSoftplus, false, 1, false},
};

struct Routes {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

// Of a hash-routed layer; empty: the router chooses.
struct HashRows {
  std::vector<int32_t> table, tokens;

  const int32_t* table_or_null() const { return table.empty() ? nullptr : table.data(); }
};

Routes route_on_grid(const Router& r, int32_t rows, const std::vector<float>& logits, const std::vector<float>& bias,
                     const HashRows& hash = {}) {
  Guarded<int32_t> experts(int64_t{rows} * r.top_k);
  Guarded<float> weights(int64_t{rows} * r.top_k);
  route({.logits = logits.data(),
         .bias = r.bias ? bias.data() : nullptr,
         .rows = rows,
         .num_experts = r.num_experts,
         .num_groups = r.num_groups,
         .top_groups = r.top_groups,
         .top_k = r.top_k,
         .scoring = r.scoring,
         .table = hash.table_or_null(),
         .tokens = hash.tokens.data(),
         .normalize = r.normalize,
         .scale = r.scale,
         .experts = experts.data(),
         .weights = weights.data()},
        nullptr);
  EXPECT_TRUE(experts.guards_intact() && weights.guards_intact()) << r.text();
  return {{experts.values().begin(), experts.values().end()}, {weights.values().begin(), weights.values().end()}};
}

Routes route_by_oracle(const Router& r, int32_t rows, const std::vector<float>& logits, const std::vector<float>& bias,
                       const HashRows& hash) {
  Routes routes{std::vector<int32_t>(static_cast<size_t>(rows * r.top_k)),
                std::vector<float>(static_cast<size_t>(rows * r.top_k))};
  TestContext context;
  ref::route({.logits = logits.data(),
              .bias = r.bias ? bias.data() : nullptr,
              .rows = rows,
              .num_experts = r.num_experts,
              .num_groups = r.num_groups,
              .top_groups = r.top_groups,
              .top_k = r.top_k,
              .scoring = r.scoring,
              .table = hash.table_or_null(),
              .tokens = hash.tokens.data(),
              .normalize = r.normalize,
              .scale = r.scale,
              .experts = routes.experts.data(),
              .weights = routes.weights.data()},
             context);
  return routes;
}

void expect_routes(const Router& r, int32_t rows, const std::vector<float>& logits, const std::vector<float>& bias,
                   const HashRows& hash = {}) {
  const Routes got = route_on_grid(r, rows, logits, bias, hash), want = route_by_oracle(r, rows, logits, bias, hash);
  ASSERT_EQ(got.experts, want.experts) << r.text() << " rows " << rows;
  // With sqrt-softplus exp, log1p (2 u each), a sum and a root are fewer than these.
  // Numerator and denominator: exp (2 u) of a rounded difference (u times the spread of the logits, under 12 here); 16
  // + 5 roundings in the sum of the experts, top_k in that of the chosen; quotients, scale and the oracle 6.
  const double bound = kUnit * (2 * (2 + 12) + 21 + r.top_k + 6);
  expect_close(
      got.weights, want.weights, r.top_k, bound, [&](size_t i) { return bound * std::abs(want.weights[i]); }, r.text());
}

TEST(CudaRoute, MatchesTheOracle) {
  for (const uint64_t seed : kSeeds) {
    grid::configure({.seed = seed});
    for (const Router& r : kRouters)
      for (const int32_t rows : {0, 1, 7, 30})
        expect_routes(r, rows, random_values(rows * r.num_experts, seed, 2),
                      random_values(r.num_experts, seed + 1, 0.3));
  }
}

TEST(CudaRoute, AHashTableChooses) {
  for (const uint64_t seed : kSeeds) {
    grid::configure({.seed = seed});
    for (const Router& r : {Router{64, 1, 1, 6, kSqrtSoftplus, true, 1.5f, false},
                            {384, 1, 1, 6, kSoftmax, false, 1, false},
                            {20, 1, 1, 20, kSigmoid, true, 1, false}}) {
      HashRows hash;
      for (uint64_t token = 0; token < 9; ++token) {
        const std::vector<int32_t> ids = shuffled(r.num_experts, token);
        hash.table.insert(hash.table.end(), ids.begin(), ids.begin() + r.top_k);
      }
      hash.tokens = {8, 0, 3, 3, 7};
      expect_routes(r, 5, random_values(5 * r.num_experts, seed, 2), {}, hash);
    }
  }
}

TEST(CudaRoute, TiesGoToTheLowerId) {
  for (const Router& r : kRouters) {
    std::vector<float> logits;
    for (int64_t i = 0; i < 20 * r.num_experts; ++i) logits.push_back(random_bits(3, i) % 4 == 0 ? 1.0f : 0.0f);
    expect_routes(r, 20, logits, std::vector<float>(static_cast<size_t>(r.num_experts), 0.125f));
  }
}

// A broken row must not index outside the expert tables, nor harm its neighbours.
TEST(CudaRoute, NotANumberYieldsValidIdsAndHarmsNobody) {
  for (const Router& r : kRouters) {
    for (const float nan : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()}) {
      std::vector<float> logits = random_values(3 * r.num_experts, 1);
      const std::vector<float> bias = random_values(r.num_experts, 2, 0.3);
      const Routes before = route_on_grid(r, 3, logits, bias);
      std::fill_n(logits.begin() + r.num_experts, r.num_experts, nan);
      const Routes after = route_on_grid(r, 3, logits, bias);
      std::vector<int32_t> broken;
      for (size_t i = 0; i < after.experts.size(); ++i) {
        EXPECT_TRUE(after.experts[i] >= 0 && after.experts[i] < r.num_experts) << r.text();
        if (i / static_cast<size_t>(r.top_k) == 1) {
          broken.push_back(after.experts[i]);
          EXPECT_TRUE(std::isnan(after.weights[i])) << r.text();
        } else {
          EXPECT_EQ(after.experts[i], before.experts[i]) << r.text();
          EXPECT_EQ(after.weights[i], before.weights[i]) << r.text();
        }
      }
      std::sort(broken.begin(), broken.end());
      EXPECT_EQ(std::unique(broken.begin(), broken.end()), broken.end()) << r.text() << ": an expert twice";
    }
  }
}

void check_permute(const std::vector<int32_t>& experts, int32_t rows, int32_t top_k, int32_t num_experts,
                   int32_t tile_rows, const std::string& what) {
  const int64_t pairs = int64_t{rows} * top_k;
  const int64_t capacity = max_tiles(pairs, num_experts, tile_rows);
  Guarded<int32_t> offsets(num_experts + 1), row_ids(pairs), places(pairs), num_tiles(1);
  Guarded<ExpertTile> tiles(capacity);
  permute({.experts = experts.data(),
           .rows = rows,
           .top_k = top_k,
           .num_experts = num_experts,
           .tile_rows = tile_rows,
           .offsets = offsets.data(),
           .row_ids = row_ids.data(),
           .places = places.data(),
           .tiles = tiles.data(),
           .num_tiles = num_tiles.data()},
          nullptr);
  EXPECT_TRUE(offsets.guards_intact() && row_ids.guards_intact() && places.guards_intact() && tiles.guards_intact() &&
              num_tiles.guards_intact())
      << what;
  std::vector<int32_t> want_offsets(static_cast<size_t>(num_experts) + 1), want_row_ids(static_cast<size_t>(pairs)),
      want_places(static_cast<size_t>(pairs));
  TestContext context;
  ref::permute({.experts = experts.data(),
                .rows = rows,
                .top_k = top_k,
                .num_experts = num_experts,
                .offsets = want_offsets.data(),
                .row_ids = want_row_ids.data(),
                .places = want_places.data()},
               context);
  ASSERT_TRUE(std::equal(want_offsets.begin(), want_offsets.end(), offsets.values().begin())) << what;
  ASSERT_TRUE(std::equal(want_row_ids.begin(), want_row_ids.end(), row_ids.values().begin())) << what;
  ASSERT_TRUE(std::equal(want_places.begin(), want_places.end(), places.values().begin())) << what;
  int32_t tile = 0;
  for (int32_t e = 0; e < num_experts; ++e) {
    const int32_t end = want_offsets[static_cast<size_t>(e) + 1];
    for (int32_t begin = want_offsets[static_cast<size_t>(e)]; begin < end; begin += tile_rows, ++tile) {
      ASSERT_LT(tile, capacity) << what;
      const ExpertTile got = tiles[tile];
      ASSERT_EQ(got.expert, e) << what;
      ASSERT_EQ(got.begin, begin) << what;
      ASSERT_EQ(got.end, std::min(begin + tile_rows, end)) << what;
    }
  }
  EXPECT_EQ(num_tiles[0], tile) << what;
}

TEST(CudaPermute, SortsStablyAndCutsTiles) {
  for (const uint64_t seed : kSeeds) {
    grid::configure({.seed = seed});
    for (const auto& [rows, top_k, num_experts, tile_rows] :
         {std::tuple{0, 6, 64, 16}, {1, 8, 256, 8}, {5, 6, 64, 16}, {300, 8, 512, 16}, {77, 1, 3, 8}, {40, 4, 1, 64}}) {
      std::vector<int32_t> experts;
      for (int64_t i = 0; i < int64_t{rows} * top_k; ++i)
        experts.push_back(static_cast<int32_t>(random_bits(seed, i) % static_cast<uint64_t>(num_experts)));
      const std::string what = fmt::format("rows {} top {} experts {} seed {}", rows, top_k, num_experts, seed);
      check_permute(experts, rows, top_k, num_experts, tile_rows, what);
      std::fill(experts.begin(), experts.end(), num_experts - 1);
      check_permute(experts, rows, top_k, num_experts, tile_rows, what + ", all to the last");
    }
  }
}

TEST(CudaCombine, GivesTheOraclesBitsRoundedOnce) {
  for (const uint64_t seed : kSeeds) {
    grid::configure({.seed = seed});
    for (const auto& [rows, top_k, hidden, with_shared] :
         {std::tuple{0, 6, 64, true}, {1, 8, 64, false}, {7, 6, 136, true}, {3, 1, 2048, true}, {5, 4, 1032, false}}) {
      const int64_t pairs = int64_t{rows} * top_k;
      const std::vector<bf16> y = random_bf16(pairs * hidden, seed),
                              shared = random_bf16(int64_t{rows} * hidden, seed + 1),
                              x = random_bf16(int64_t{rows} * hidden, seed + 2);
      const std::vector<float> weights = random_values(pairs, seed + 3);
      const std::vector<int32_t> places = shuffled(static_cast<int32_t>(pairs), seed);
      Guarded<bf16> got(x);
      combine({.y = y.data(),
               .places = places.data(),
               .weights = weights.data(),
               .shared = with_shared ? shared.data() : nullptr,
               .x = got.data(),
               .rows = rows,
               .hidden = hidden,
               .top_k = top_k},
              nullptr);
      EXPECT_TRUE(got.guards_intact());
      const std::vector<float> y32 = to_f32(y), shared32 = to_f32(shared);
      std::vector<float> want = to_f32(x);
      TestContext context;
      ref::combine({.y = y32.data(),
                    .places = places.data(),
                    .weights = weights.data(),
                    .shared = with_shared ? shared32.data() : nullptr,
                    .x = want.data(),
                    .rows = rows,
                    .hidden = hidden,
                    .top_k = top_k},
                   context);
      for (size_t i = 0; i < want.size(); ++i)
        ASSERT_EQ(got[static_cast<int64_t>(i)].bits, f32_to_bf16(want[i])) << coordinate(i, hidden);
    }
  }
}

TEST(CudaMoeDeathTest, ShapesAreChecked) {
  EXPECT_DEATH(route({.rows = 1, .num_experts = 513, .top_k = 1}, nullptr), "kMaxExperts; found 513");
  EXPECT_DEATH(route({.rows = 1, .num_experts = 12, .num_groups = 5, .top_k = 1}, nullptr), "found 12 5");
  EXPECT_DEATH(route({.rows = 1, .num_experts = 12, .num_groups = 4, .top_groups = 1, .top_k = 4}, nullptr), "found 4");
  EXPECT_DEATH(permute({.rows = 1, .top_k = 1, .num_experts = 8}, nullptr), "found 1 0");
}

}  // namespace
}  // namespace sluice::cuda
