// DeepSeek-V4's attention on the emulated grid against the oracle: window, all or chosen entries, sinks, the turn back;
// and the scores of its indexer. What a token must not see is NaN.
#include "kernels/cuda/attention/window_attention.h"

#include <numeric>

#include "kernels/cuda/attention/lightning.h"
#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"
#include "tests/kernels/hybrid_case.h"

namespace sluice::cuda {
namespace {

struct WindowCase {
  int32_t heads, dim, rope, window, ratio, max_selected;  // 0: all complete entries
  std::vector<std::pair<int32_t, int32_t>> tokens;        // (sequence, position)

  float scale() const { return 2 / std::sqrt(static_cast<float>(dim)); }
  int32_t complete(int32_t position) const { return ratio == 0 ? 0 : (position + 1) / ratio; }
};

const std::vector<int32_t> kLengths = {200, 700, 1};

std::vector<WindowCase> window_cases() {
  return {
      {20, 64, 16, 20, 0, 0, {{0, 0}, {0, 19}, {0, 199}, {1, 300}}},  // no entries
      {17, 64, 8, 65, 4, 0, {{0, 2}, {0, 3}, {0, 199}, {1, 699}}},    // all of them, two splits
      {3, 64, 64, 128, 128, 0, {{0, 126}, {0, 127}, {1, 699}, {2, 0}}},
      {16, 128, 32, 128, 4, 30, {{0, 60}, {0, 199}, {1, 130}, {1, 699}}},
      {8, 512, 64, 128, 4, 40, {{0, 198}, {1, 640}}},
      {64, 512, 64, 128, 128, 0, {{1, 699}}},
  };
}

struct WindowData {
  explicit WindowData(const WindowCase& c)
      : pool(kLengths, c.dim, std::max(4, c.ratio), 1, DType::kBF16), sinks(random_values(c.heads, 7)) {
    q = random_bf16(static_cast<int64_t>(c.tokens.size()) * c.heads * c.dim, 4);
    const auto vector_of = [&](int32_t seed, int32_t sequence, int32_t at) {
      return random_values(c.dim, static_cast<uint64_t>(seed * 1000000 + sequence * 10000 + at));
    };
    for (const auto& [sequence, position] : c.tokens) {
      append_angles(position, c.rope, cos_sin);
      for (int32_t s = std::max(0, position - c.window + 1); s <= position; ++s)
        pool.write_window(sequence, s, vector_of(1, sequence, s).data());
      std::vector<int32_t> entries(static_cast<size_t>(c.complete(position)));
      std::iota(entries.begin(), entries.end(), 0);
      if (c.max_selected > 0) {
        entries = shuffled(c.complete(position), static_cast<uint64_t>(position));
        entries.resize(std::min(entries.size(), static_cast<size_t>(c.max_selected)));
        std::sort(entries.begin(), entries.end());
      }
      for (const int32_t entry : entries) pool.write_entry(sequence, entry, vector_of(2, sequence, entry).data());
      sequences.push_back(sequence);
      positions.push_back(position);
      num_selected.push_back(static_cast<int32_t>(entries.size()));
      selected.push_back(std::move(entries));
    }
    max_pages = 1;  // the grid provides for more than any sequence has
    for (const int32_t length : kLengths) max_pages = std::max(max_pages, (length + kPageTokens - 1) / kPageTokens + 1);
    pages.assign(static_cast<size_t>(max_pages) * kLengths.size(), -1);
    for (size_t s = 0; s < kLengths.size(); ++s)
      for (int32_t i = 0; i * kPageTokens < kLengths[s]; ++i)
        pages[s * static_cast<size_t>(max_pages) + static_cast<size_t>(i)] =
            value(pool.pages(static_cast<int32_t>(s))[i]);
  }

  HybridPool pool;
  std::vector<float> sinks, cos_sin;
  std::vector<bf16> q;
  std::vector<int32_t> sequences, positions, num_selected, pages;
  std::vector<std::vector<int32_t>> selected;
  int32_t max_pages;
};

std::vector<float> by_the_oracle(const WindowCase& c, WindowData& data) {
  const std::vector<float> q = to_f32(data.q);
  std::vector<float> want(q.size());
  TestContext context;
  for (size_t i = 0; i < c.tokens.size(); ++i) {
    const SequenceSpan span{static_cast<int32_t>(i), data.positions[i], data.positions[i] + 1,
                            data.pool.pages(data.sequences[i])};
    ref::window_attention({.q = q.data(),
                           .sinks = data.sinks.data(),
                           .cos_sin = data.cos_sin.data(),
                           .sequences = std::span(&span, 1),
                           .cache = data.pool.window(),
                           .window = c.window,
                           .compressed = c.ratio > 0 ? data.pool.compressed() : CompressedCache(),
                           .selected = c.max_selected > 0 ? data.selected[i].data() : nullptr,
                           .num_selected = data.num_selected[i],
                           .heads = c.heads,
                           .dim = c.dim,
                           .rope_dim = c.rope,
                           .scale = c.scale(),
                           .out = want.data()},
                          context);
  }
  return want;
}

std::vector<float> on_the_grid(const WindowCase& c, WindowData& data, const MlaConfig& config, uint64_t seed) {
  grid::configure({.seed = seed});
  std::vector<int32_t> list(c.tokens.size() * static_cast<size_t>(c.max_selected), -1);
  if (c.max_selected > 0)
    for (size_t i = 0; i < c.tokens.size(); ++i)
      std::copy(data.selected[i].begin(), data.selected[i].end(),
                list.begin() + static_cast<int64_t>(i) * c.max_selected);
  WindowAttentionParams params{.q = data.q.data(),
                               .sinks = data.sinks.data(),
                               .cos_sin = data.cos_sin.data(),
                               .cache = reinterpret_cast<const bf16*>(data.pool.window().base),
                               .compressed = reinterpret_cast<const bf16*>(data.pool.compressed().entries.base),
                               .page_stride = data.pool.page_bytes() / 2,
                               .pages = data.pages.data(),
                               .token_sequence = data.sequences.data(),
                               .positions = data.positions.data(),
                               .selected = c.max_selected > 0 ? list.data() : nullptr,
                               .num_selected = data.num_selected.data(),
                               .tokens = static_cast<int32_t>(c.tokens.size()),
                               .heads = c.heads,
                               .dim = c.dim,
                               .rope = c.rope,
                               .window = c.window,
                               .ratio = c.ratio,
                               .max_pages = data.max_pages,
                               .max_selected = c.max_selected,
                               .scale = c.scale()};
  const int64_t rows = int64_t{params.tokens} * c.heads, splits = max_splits(params, config);
  Guarded<bf16> out(rows * c.dim);
  Guarded<float> partial(rows * splits * c.dim), lse(rows * splits);
  params.out = out.data();
  params.partial = partial.data();
  params.partial_lse = lse.data();
  window_attention(params, config, nullptr);
  EXPECT_TRUE(out.guards_intact() && partial.guards_intact() && lse.guards_intact());
  return to_f32(out.values());
}

TEST(CudaWindowAttention, MatchesTheOracle) {
  for (const WindowCase& c : window_cases()) {
    WindowData data(c);
    const std::vector<float> want = by_the_oracle(c, data);
    for (const uint64_t seed : kSeeds) {
      const MlaConfig config{.row_tiles = seed == 2 ? 2 : 1, .split_pages = seed == 3 ? 1 : 2};
      const std::vector<float> got = on_the_grid(c, data, config, seed);
      // As for mla_decode: two roundings to bf16, of the probabilities and of the result. Turned back, a value has the
      // errors of two, by a cosine and a sine.
      constexpr double kMaxEntry = 1.7321;
      expect_close(
          got, want, c.dim, 2 * kBf16Unit,
          [&](size_t i) { return kBf16Unit * (std::abs(want[i]) + std::sqrt(2.0) * kMaxEntry); },
          fmt::format("heads {} dim {} window {} ratio {} seed {}", c.heads, c.dim, c.window, c.ratio, seed));
    }
  }
}

TEST(CudaWindowAttention, BitsDependOnTheTokenAlone) {
  for (const WindowCase& c : window_cases()) {
    WindowData data(c);
    const std::vector<float> together = on_the_grid(c, data, {}, 1);
    const auto row = static_cast<size_t>(c.heads * c.dim);
    for (size_t i = 0; i < c.tokens.size(); ++i) {
      WindowCase alone = c;
      alone.tokens = {c.tokens[i]};
      WindowData of_one(alone);
      std::copy_n(data.q.begin() + static_cast<int64_t>(i * row), row, of_one.q.begin());
      expect_same_bits(on_the_grid(alone, of_one, {.row_tiles = 2}, 5), std::span(together).subspan(i * row, row),
                       c.dim, fmt::format("token {} of dim {} ratio {}", i, c.dim, c.ratio));
    }
  }
}

// A sink far above all scores leaves nothing; far below them it changes nothing.
TEST(CudaWindowAttention, SinksTakeTheirShare) {
  const WindowCase c = window_cases()[3];
  WindowData data(c);
  std::fill(data.sinks.begin(), data.sinks.end(), 200.0f);
  for (const float value : on_the_grid(c, data, {}, 1)) ASSERT_LT(std::abs(value), 1e-30f);
  std::fill(data.sinks.begin(), data.sinks.end(), -200.0f);
  const std::vector<float> low = on_the_grid(c, data, {}, 1);
  std::fill(data.sinks.begin(), data.sinks.end(), -std::numeric_limits<float>::infinity());
  expect_same_bits(on_the_grid(c, data, {}, 1), low, c.dim, "a sink of no weight");
}

// V4's indexer: a key for each 4 positions, complete ones alone. Integers, so that equal scores are many and sums
// exact.
TEST(CudaIndexScores, KeysOfSeveralPositions) {
  constexpr int32_t kHeads = 16, kDim = 64, kRatio = 4, kTopK = 20;
  const auto integers = [](int64_t count, uint64_t seed) {
    std::vector<float> values = random_values(count, seed);
    for (float& one : values) one = std::round(one);
    return values;
  };
  const std::vector<int32_t> lengths = {701, 330}, query_begin = {0, 9, 11};
  HybridPool pool(lengths, kDim, kRatio, 1, DType::kBF16);
  for (int32_t s = 0; s < 2; ++s)
    for (int32_t w = 0; w < lengths[static_cast<size_t>(s)] / kRatio; ++w)
      pool.write_entry(s, w, integers(kDim, static_cast<uint64_t>(1000 * s + w)).data());
  const int32_t max_pages = 12, tokens = query_begin.back();
  std::vector<int32_t> pages(2 * max_pages, -1), counts;
  for (int32_t s = 0; s < 2; ++s)
    for (int32_t i = 0; i * kPageTokens < lengths[static_cast<size_t>(s)]; ++i)
      pages[static_cast<size_t>(s * max_pages + i)] = value(pool.pages(s)[i]);
  const std::vector<bf16> q = to_bf16(integers(int64_t{tokens} * kHeads * kDim, 5));
  const std::vector<float> q32 = to_f32(q), weights = integers(int64_t{tokens} * kHeads, 6);
  std::vector<int32_t> want;
  TestContext context;
  for (int32_t s = 0; s < 2; ++s) {
    const int32_t begin = query_begin[static_cast<size_t>(s)], count = query_begin[static_cast<size_t>(s) + 1] - begin;
    for (int32_t i = 0; i < count; ++i) {
      const int32_t t = lengths[static_cast<size_t>(s)] - count + i;
      const SequenceSpan span{begin + i, t, t + 1, pool.pages(s)};
      counts.push_back((t + 1) / kRatio);
      std::vector<int32_t> one(kTopK);
      ref::index_select({.q = q32.data(),
                         .weights = weights.data(),
                         .sequences = std::span(&span, 1),
                         .cache = pool.compressed().entries,
                         .heads = kHeads,
                         .head_dim = kDim,
                         .top_k = kTopK,
                         .ratio = kRatio,
                         .positions = one.data()},
                        context);
      want.insert(want.end(), one.begin(), one.end());
    }
  }
  for (const uint64_t seed : kSeeds) {
    grid::configure({.seed = seed});
    constexpr int64_t kStride = 12 * kPageTokens / kRatio;
    Guarded<float> scores(tokens * kStride);
    Guarded<int32_t> list(int64_t{tokens} * kTopK), filled(tokens);
    index_scores({.q = q.data(),
                  .weights = weights.data(),
                  .cache = reinterpret_cast<const bf16*>(pool.compressed().entries.base),
                  .page_stride = pool.page_bytes() / 2,
                  .pages = pages.data(),
                  .lengths = lengths.data(),
                  .query_begin = query_begin.data(),
                  .scores = scores.data(),
                  .score_stride = kStride,
                  .sequences = 2,
                  .heads = kHeads,
                  .head_dim = kDim,
                  .max_pages = max_pages,
                  .max_queries = 9,
                  .token_end = tokens,
                  .ratio = kRatio},
                 nullptr);
    EXPECT_TRUE(scores.guards_intact());
    for (int32_t i = 0; i < tokens; ++i)
      EXPECT_TRUE(scores.untouched(i * kStride + counts[static_cast<size_t>(i)], (i + 1) * kStride)) << "token " << i;
    index_select({.scores = scores.data(),
                  .score_stride = kStride,
                  .counts = counts.data(),
                  .list = list.data(),
                  .lengths = filled.data(),
                  .rows = tokens,
                  .top_k = kTopK},
                 nullptr);
    EXPECT_EQ(std::vector<int32_t>(list.values().begin(), list.values().end()), want) << "seed " << seed;
  }
}

TEST(CudaWindowAttentionDeathTest, ShapesAreChecked) {
  EXPECT_DEATH(window_attention({.heads = 1, .dim = 96, .window = 1}, {}, nullptr), "found 96");
  EXPECT_DEATH(window_attention({.heads = 1, .dim = 64, .rope = 12, .window = 1}, {}, nullptr), "found 12 64");
  EXPECT_DEATH(window_attention({.heads = 1, .dim = 64, .window = 1, .ratio = 96}, {}, nullptr), "found 96");
  EXPECT_DEATH(index_scores({.heads = 16, .head_dim = 64, .ratio = 3}, nullptr), "found 3");
}

}  // namespace
}  // namespace sluice::cuda
