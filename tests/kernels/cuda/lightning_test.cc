// The lightning indexer and sparse attention on the emulated grid against the oracle: keys, scores, choices, and what
// is made of them.
#include "kernels/cuda/attention/lightning.h"

#include "kernels/cuda/attention/mla.h"
#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

// Pages of a layer's slice in shuffled order, NaN where nobody writes; entries of `width` values.
struct Pool {
  Pool(const std::vector<int32_t>& lengths, int32_t width_)
      : width(width_), stride(int64_t{kPageTokens} * width_ + 24) {
    for (const int32_t length : lengths) max_pages = std::max(max_pages, (length + kPageTokens - 1) / kPageTokens);
    ++max_pages;  // the grid provides for more than any sequence has
    const auto num_pages = max_pages * static_cast<int32_t>(lengths.size());
    pages = shuffled(num_pages, 3);
    for (const int32_t page : pages) ids.push_back(PageId{page});
    cache.assign(static_cast<size_t>(num_pages * stride), {0xFFFF});
  }
  bf16* entry(int32_t sequence, int32_t position) {
    return cache.data() + pages[static_cast<size_t>(sequence * max_pages + position / kPageTokens)] * stride +
           position % kPageTokens * width;
  }
  int64_t slot(int32_t sequence, int32_t position) const {
    return int64_t{pages[static_cast<size_t>(sequence * max_pages + position / kPageTokens)]} * kPageTokens +
           position % kPageTokens;
  }
  LatentCache as_bytes() { return {reinterpret_cast<std::byte*>(cache.data()), stride * 2, DType::kBF16}; }
  const PageId* pages_of(int32_t sequence) const { return ids.data() + int64_t{sequence} * max_pages; }

  int32_t width, max_pages = 0;
  int64_t stride;
  std::vector<int32_t> pages;
  std::vector<PageId> ids;
  std::vector<bf16> cache;
};

TEST(CudaLightning, IndexWrite) {
  for (const uint64_t seed : kSeeds) {
    for (const auto& [dim, rope, layout] :
         {std::tuple{128, 64, RopeLayout::kHalf}, {128, 64, RopeLayout::kPair}, {32, 16, RopeLayout::kHalf}}) {
      grid::configure({.seed = seed});
      constexpr int32_t kRows = 6;
      const std::vector<int32_t> positions{0, 63, -1, 64, 70, 5};
      const int32_t z_stride = dim + 16;
      const std::vector<bf16> z = random_bf16(kRows * z_stride, seed, 2);
      const std::vector<float> weight = random_values(dim, 2), bias = random_values(dim, 3),
                               cos_sin = random_values(kRows * rope, 4, 0.5);
      Pool got({71}, dim), want({71}, dim);
      std::vector<int64_t> slots;
      for (const int32_t p : positions) slots.push_back(p < 0 ? -1 : got.slot(0, p));
      index_write({.z = z.data(),
                   .norm_weight = weight.data(),
                   .norm_bias = bias.data(),
                   .cos_sin = cos_sin.data(),
                   .slots = slots.data(),
                   .cache = got.cache.data(),
                   .page_stride = got.stride,
                   .rows = kRows,
                   .z_stride = z_stride,
                   .head_dim = dim,
                   .rope_dim = rope,
                   .eps = 1e-6f,
                   .layout = layout},
                  nullptr);
      TestContext context;
      for (int32_t row = 0; row < kRows; ++row) {
        const int32_t p = positions[static_cast<size_t>(row)];
        if (p < 0) continue;
        const std::vector<float> z32 =
            to_f32(std::span(z).subspan(static_cast<size_t>(row * z_stride), static_cast<size_t>(dim)));
        const SequenceSpan span{0, p, p + 1, want.pages_of(0)};
        ref::index_write({.z = z32.data(),
                          .norm_weight = weight.data(),
                          .norm_bias = bias.data(),
                          .eps = 1e-6f,
                          .cos_sin = cos_sin.data() + row * rope,
                          .layout = layout,
                          .head_dim = dim,
                          .rope_dim = rope,
                          .sequences = std::span(&span, 1),
                          .cache = want.as_bytes()},
                         context);
      }
      // A normalised value is at most 3 here, weights and biases below 1.8: terms of a rotated key are below 5. Sums of
      // a few lanes' values and a butterfly: below 32 roundings. Both sides round to bf16.
      expect_close(
          to_f32(got.cache), to_f32(want.cache), dim, 2 * kBf16Unit,
          [&](size_t i) { return 2 * kBf16Unit * std::abs(bf16_to_f32(want.cache[i].bits)) + 32 * kUnit * 10; },
          fmt::format("dim {} rope {} seed {}", dim, rope, seed));
    }
  }
}

// Queries of some sequences against their index keys.
struct IndexCase {
  int32_t heads, dim, top_k;
  std::vector<int32_t> lengths, queries;
  bool integers;  // every product and sum exact, and many equal

  int32_t tokens() const { return std::accumulate(queries.begin(), queries.end(), 0); }
};

struct IndexData {
  explicit IndexData(const IndexCase& c) : pool(c.lengths, c.dim) {
    const auto numbers = [&](int64_t count, uint64_t seed) {
      std::vector<float> values = random_values(count, seed);
      if (c.integers)
        for (float& value : values) value = std::round(value);
      return values;
    };
    q = to_bf16(numbers(int64_t{c.tokens()} * c.heads * c.dim, 5));
    weights = numbers(int64_t{c.tokens()} * c.heads, 6);
    query_begin = {0};
    for (size_t s = 0; s < c.lengths.size(); ++s) {
      query_begin.push_back(query_begin.back() + c.queries[s]);
      for (int32_t p = 0; p < c.lengths[s]; ++p) {
        const std::vector<bf16> key = to_bf16(numbers(c.dim, 100 * s + static_cast<uint64_t>(p) + 7));
        std::copy(key.begin(), key.end(), pool.entry(static_cast<int32_t>(s), p));
      }
      for (int32_t i = 0; i < c.queries[s]; ++i) counts.push_back(c.lengths[s] - c.queries[s] + i + 1);
    }
  }

  Pool pool;
  std::vector<bf16> q;
  std::vector<float> weights;
  std::vector<int32_t> query_begin, counts;  // counts: positions that a token sees
};

IndexScoresParams scores_params(const IndexCase& c, IndexData& data) {
  return {.q = data.q.data(),
          .weights = data.weights.data(),
          .cache = data.pool.cache.data(),
          .page_stride = data.pool.stride,
          .pages = data.pool.pages.data(),
          .lengths = c.lengths.data(),
          .query_begin = data.query_begin.data(),
          .score_stride = int64_t{data.pool.max_pages} * kPageTokens,
          .sequences = static_cast<int32_t>(c.lengths.size()),
          .heads = c.heads,
          .head_dim = c.dim,
          .max_pages = data.pool.max_pages,
          .max_queries = *std::max_element(c.queries.begin(), c.queries.end())};
}

// In passes of `rows` tokens; [tokens, top_k] and the lists' lengths.
std::pair<std::vector<int32_t>, std::vector<int32_t>> select_on_grid(const IndexCase& c, IndexData& data, int32_t rows,
                                                                     uint64_t seed) {
  grid::configure({.seed = seed});
  Guarded<int32_t> list(int64_t{c.tokens()} * c.top_k), lengths(c.tokens());
  IndexScoresParams params = scores_params(c, data);
  for (int32_t begin = 0; begin < c.tokens(); begin += rows) {
    params.token_begin = begin;
    params.token_end = std::min(begin + rows, c.tokens());
    const int32_t count = params.token_end - begin;
    Guarded<float> scores(count * params.score_stride);
    params.scores = scores.data();
    index_scores(params, nullptr);
    EXPECT_EQ(grid::last_launch().bank_conflicts, 0);
    EXPECT_TRUE(scores.guards_intact());
    for (int32_t i = 0; i < count; ++i)
      EXPECT_TRUE(scores.untouched(i * params.score_stride + data.counts[static_cast<size_t>(begin + i)],
                                   (i + 1) * params.score_stride));
    index_select({.scores = scores.data(),
                  .score_stride = params.score_stride,
                  .counts = data.counts.data() + begin,
                  .list = list.data() + int64_t{begin} * c.top_k,
                  .lengths = lengths.data() + begin,
                  .rows = count,
                  .top_k = c.top_k},
                 nullptr);
  }
  EXPECT_TRUE(list.guards_intact() && lengths.guards_intact());
  return {{list.values().begin(), list.values().end()}, {lengths.values().begin(), lengths.values().end()}};
}

TEST(CudaLightning, ChoosesAsTheOracleDoes) {
  for (const IndexCase& c :
       {IndexCase{16, 32, 20, {150, 21, 300}, {40, 3, 1}, true}, IndexCase{64, 128, 7, {70}, {2}, true},
        IndexCase{32, 64, 128, {100, 270}, {1, 1}, true}}) {
    IndexData data(c);
    for (const uint64_t seed : kSeeds) {
      const auto [list, lengths] = select_on_grid(c, data, seed == 2 ? 7 : 1000, seed);
      const std::vector<float> q = to_f32(data.q);
      TestContext context;
      for (size_t s = 0, token = 0; s < c.lengths.size(); ++s) {
        for (int32_t i = 0; i < c.queries[s]; ++i, ++token) {
          const int32_t t = c.lengths[s] - c.queries[s] + i;
          std::vector<int32_t> want(static_cast<size_t>(std::min(c.top_k, t + 1)));
          if (t + 1 <= c.top_k) {
            std::iota(want.begin(), want.end(), 0);
          } else {
            const SequenceSpan span{static_cast<int32_t>(token), t, t + 1, data.pool.pages_of(static_cast<int32_t>(s))};
            ref::index_select({.q = q.data(),
                               .weights = data.weights.data(),
                               .sequences = std::span(&span, 1),
                               .cache = data.pool.as_bytes(),
                               .heads = c.heads,
                               .head_dim = c.dim,
                               .top_k = c.top_k,
                               .positions = want.data()},
                              context);
          }
          const auto first = list.begin() + static_cast<int64_t>(token) * c.top_k;
          ASSERT_EQ(lengths[token], static_cast<int32_t>(want.size())) << "token " << token;
          EXPECT_EQ(std::vector<int32_t>(first, first + lengths[token]), want) << "token " << token << " seed " << seed;
        }
      }
    }
  }
}

TEST(CudaLightning, Scores) {
  const IndexCase c{64, 128, 1, {100}, {9}, false};
  IndexData data(c);
  IndexScoresParams params = scores_params(c, data);
  params.token_end = c.tokens();
  Guarded<float> scores(c.tokens() * params.score_stride);
  params.scores = scores.data();
  index_scores(params, nullptr);
  std::vector<float> got, want;
  for (int32_t token = 0; token < c.tokens(); ++token)
    for (int32_t p = 0; p < data.counts[static_cast<size_t>(token)]; ++p) {
      double sum = 0;
      const bf16* key = data.pool.entry(0, p);
      for (int64_t head = 0; head < c.heads; ++head) {
        double dot = 0;
        for (int64_t i = 0; i < c.dim; ++i)
          dot += double{bf16_to_f32(data.q[static_cast<size_t>((token * c.heads + head) * c.dim + i)].bits)} *
                 bf16_to_f32(key[i].bits);
        sum += data.weights[static_cast<size_t>(token * c.heads + head)] * std::max(0.0, dot);
      }
      want.push_back(static_cast<float>(sum));
      got.push_back(scores[token * params.score_stride + p]);
    }
  // A dot of 128 terms of deviation 1 stays below 60 with 128 roundings, 64 of them weighted by at most sqrt(3).
  const double bound = kUnit * (128 + 16) * 60 * 1.74 * 64;
  expect_close(
      got, want, 1, 1e-4, [&](size_t) { return bound; }, "scores");
}

TEST(CudaLightning, BrokenScoresAreNotChosen) {
  std::vector<float> scores = random_values(200, 1);
  for (size_t i = 0; i < scores.size(); i += 2) scores[i] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> counts{200};
  std::vector<int32_t> list(120, -7), lengths(1);
  index_select({.scores = scores.data(),
                .score_stride = 200,
                .counts = counts.data(),
                .list = list.data(),
                .lengths = lengths.data(),
                .rows = 1,
                .top_k = 120},
               nullptr);
  EXPECT_EQ(lengths[0], 100);
  for (size_t i = 0; i < 120; ++i) EXPECT_EQ(list[i], i < 100 ? static_cast<int32_t>(2 * i + 1) : -7);
}

// A token and what it attends to.
struct SparseToken {
  int32_t sequence, position;
  std::vector<int32_t> list;
};

struct SparseCase {
  int32_t latent, rope, heads, unit;
  std::vector<int32_t> lengths;
  std::vector<SparseToken> tokens;

  int32_t width() const { return latent + rope; }
  float scale() const { return 2 / std::sqrt(static_cast<float>(width())); }
};

// Every other position, or pages: the first, one between, the own.
SparseCase sparse_case(int32_t latent, int32_t rope, int32_t heads, int32_t unit) {
  SparseCase c{latent, rope, heads, unit, {200, 330}, {}};
  for (const auto& [sequence, position] : {std::pair{0, 199}, {1, 130}, {1, 329}, {0, 3}}) {
    SparseToken token{sequence, position, {}};
    const int32_t own = position / unit;
    for (int32_t i = 0; i < own; ++i)
      if (i == 0 || (unit == 1 ? i % 2 == 1 : i == own / 2)) token.list.push_back(i);
    token.list.push_back(own);
    c.tokens.push_back(token);
  }
  return c;
}

TEST(CudaMlaSparse, MatchesTheOracle) {
  for (const SparseCase& c : {sparse_case(64, 16, 20, 1), sparse_case(64, 16, 4, 64), sparse_case(256, 32, 3, 1),
                              sparse_case(512, 64, 16, 64)}) {
    Pool pool(c.lengths, c.width());
    for (size_t s = 0; s < c.lengths.size(); ++s)
      for (int32_t p = 0; p < c.lengths[s]; ++p) {
        const std::vector<bf16> entry = random_bf16(c.width(), 1000 * s + static_cast<uint64_t>(p));
        std::copy(entry.begin(), entry.end(), pool.entry(static_cast<int32_t>(s), p));
      }
    const auto tokens = static_cast<int32_t>(c.tokens.size());
    const std::vector<bf16> q = random_bf16(int64_t{tokens} * c.heads * c.width(), 4);
    int32_t max_list = 0;
    for (const SparseToken& token : c.tokens) max_list = std::max(max_list, static_cast<int32_t>(token.list.size()));
    std::vector<int32_t> list(static_cast<size_t>(tokens * max_list), -1), lengths, sequences;
    std::vector<float> want;
    TestContext context;
    for (int32_t i = 0; i < tokens; ++i) {
      const SparseToken& token = c.tokens[static_cast<size_t>(i)];
      std::copy(token.list.begin(), token.list.end(), list.begin() + i * max_list);
      sequences.push_back(token.sequence);
      std::vector<int32_t> positions;
      for (const int32_t at : token.list)
        for (int32_t p = at * c.unit; p < (at + 1) * c.unit && p <= token.position; ++p) positions.push_back(p);
      lengths.push_back(static_cast<int32_t>(positions.size()));
      std::vector<float> absorbed, rope, out(static_cast<size_t>(c.heads * c.latent));
      for (int64_t head = 0; head < c.heads; ++head) {
        const std::vector<float> row = to_f32(std::span(q).subspan(
            static_cast<size_t>((i * c.heads + head) * c.width()), static_cast<size_t>(c.width())));
        absorbed.insert(absorbed.end(), row.begin(), row.begin() + c.latent);
        rope.insert(rope.end(), row.begin() + c.latent, row.end());
      }
      const SequenceSpan span{0, token.position, token.position + 1, pool.pages_of(token.sequence)};
      ref::sparse_attention({.q = rope.data(),
                             .absorbed = absorbed.data(),
                             .positions = positions.data(),
                             .sequences = std::span(&span, 1),
                             .cache = pool.as_bytes(),
                             .heads = c.heads,
                             .nope_dim = 0,
                             .rope_dim = c.rope,
                             .kv_lora_rank = c.latent,
                             .num_positions = lengths.back(),
                             .scale = c.scale(),
                             .latents = out.data()},
                            context);
      want.insert(want.end(), out.begin(), out.end());
    }
    for (const uint64_t seed : kSeeds) {
      grid::configure({.seed = seed});
      const MlaConfig config{.row_tiles = seed == 2 ? 2 : 1, .split_pages = seed == 3 ? 2 : 1};
      MlaSparseParams params{.q = q.data(),
                             .cache = pool.cache.data(),
                             .page_stride = pool.stride,
                             .pages = pool.pages.data(),
                             .token_sequence = sequences.data(),
                             .list = list.data(),
                             .lengths = lengths.data(),
                             .tokens = tokens,
                             .heads = c.heads,
                             .latent = c.latent,
                             .rope = c.rope,
                             .max_pages = pool.max_pages,
                             .max_list = max_list,
                             .unit = c.unit,
                             .scale = c.scale()};
      const int64_t rows = int64_t{tokens} * c.heads, splits = max_splits(params, config);
      Guarded<bf16> out(rows * c.latent);
      Guarded<float> partial(rows * splits * c.latent), lse(rows * splits);
      params.out = out.data();
      params.partial = partial.data();
      params.partial_lse = lse.data();
      mla_sparse(params, config, nullptr);
      EXPECT_TRUE(out.guards_intact() && partial.guards_intact() && lse.guards_intact());
      // As for mla_decode: two roundings to bf16, of the probabilities and of the result.
      constexpr double kMaxEntry = 1.7321;
      expect_close(
          to_f32(out.values()), want, c.latent, 2 * kBf16Unit,
          [&](size_t i) { return kBf16Unit * (std::abs(want[i]) + kMaxEntry); },
          fmt::format("latent {} heads {} unit {} seed {}", c.latent, c.heads, c.unit, seed));
    }
  }
}

TEST(CudaLightningDeathTest, ShapesAreChecked) {
  EXPECT_DEATH(index_scores({.heads = 24, .head_dim = 128}, nullptr), "found 24");
  EXPECT_DEATH(index_scores({.heads = 16, .head_dim = 48}, nullptr), "found 48");
  EXPECT_DEATH(index_write({.head_dim = 257}, nullptr), "found 257");
  EXPECT_DEATH(mla_sparse({.unit = 32}, {}, nullptr), "found 32");
  EXPECT_EQ(choose_index_rows(int64_t{1} << 30, 2048), 2048);
  EXPECT_EQ(choose_index_rows(1, 2048), 1);
}

}  // namespace
}  // namespace sluice::cuda
