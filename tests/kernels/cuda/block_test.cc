// Block attention's means and choice of pages on the emulated grid against their formulas: means to the bit; pages,
// whose masses the kernel estimates in f32, wherever the masses in double are not too close to tell.
#include "kernels/cuda/attention/block.h"

#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

struct BlockCase {
  int32_t latent, rope, heads;
  std::vector<int32_t> lengths;

  int32_t width() const { return latent + rope; }
};

// Entries and means of some sequences; pages lie in shuffled order, NaN where nobody writes.
struct BlockData {
  explicit BlockData(const BlockCase& c) : stride(int64_t{kPageTokens} * c.width() + 16), means_stride(c.width() + 8) {
    for (const int32_t length : c.lengths) max_pages = std::max(max_pages, length / kPageTokens + 2);
    const auto num_pages = max_pages * static_cast<int32_t>(c.lengths.size());
    pages = shuffled(num_pages, 3);
    cache.assign(static_cast<size_t>(num_pages * stride), {0xFFFF});
    for (size_t s = 0; s < c.lengths.size(); ++s)
      for (int32_t p = 0; p < c.lengths[s]; ++p) {
        const std::vector<bf16> entry = random_bf16(c.width(), 1000 * s + static_cast<uint64_t>(p));
        const int32_t page = pages[s * static_cast<size_t>(max_pages) + static_cast<size_t>(p / kPageTokens)];
        std::copy(entry.begin(), entry.end(), cache.begin() + page * stride + p % kPageTokens * c.width());
      }
  }
  int64_t stride, means_stride;
  int32_t max_pages = 0;
  std::vector<int32_t> pages;
  std::vector<bf16> cache;
};

// Means of the pages that the last queries[s] positions of each sequence end: one chain of additions, then a division.
std::vector<bf16> means_by_formula(const BlockCase& c, const BlockData& data, const std::vector<int32_t>& queries) {
  std::vector<bf16> means(data.pages.size() * static_cast<size_t>(data.means_stride), {0xFFFF});
  for (size_t s = 0; s < c.lengths.size(); ++s) {
    for (int32_t place = (c.lengths[s] - queries[s]) / kPageTokens; place < c.lengths[s] / kPageTokens; ++place) {
      const int32_t page = data.pages[s * static_cast<size_t>(data.max_pages) + static_cast<size_t>(place)];
      for (int32_t column = 0; column < c.width(); ++column) {
        float sum = 0;
        for (int64_t i = 0; i < kPageTokens; ++i)
          sum += bf16_to_f32(data.cache[static_cast<size_t>(page * data.stride + i * c.width() + column)].bits);
        means[static_cast<size_t>(page * data.means_stride + column)] = {f32_to_bf16(sum / kPageTokens)};
      }
    }
  }
  return means;
}

TEST(CudaBlock, Means) {
  for (const BlockCase& c : {BlockCase{64, 16, 1, {200, 64, 63, 130}}, BlockCase{512, 64, 1, {70, 1, 1, 128}}}) {
    BlockData data(c);
    const std::vector<int32_t> queries{200, 1, 63, 2};  // whole prompts, and steps that do and do not end a page
    std::vector<int32_t> used, query_begin{0};
    for (size_t s = 0; s < 4; ++s) {
      used.push_back(std::min(queries[s], c.lengths[s]));
      query_begin.push_back(query_begin.back() + used[s]);
    }
    const std::vector<bf16> want = means_by_formula(c, data, used);
    for (const uint64_t seed : kSeeds) {
      grid::configure({.seed = seed});
      Guarded<bf16> means(static_cast<int64_t>(want.size()));
      block_means({.cache = data.cache.data(),
                   .page_stride = data.stride,
                   .means = means.data(),
                   .means_stride = data.means_stride,
                   .pages = data.pages.data(),
                   .lengths = c.lengths.data(),
                   .query_begin = query_begin.data(),
                   .sequences = 4,
                   .max_pages = data.max_pages,
                   .max_queries = 200,
                   .width = c.width()},
                  nullptr);
      EXPECT_TRUE(means.guards_intact());
      for (int64_t i = 0; i < means.size(); ++i) ASSERT_EQ(means[i].bits, want[static_cast<size_t>(i)].bits) << i;
    }
  }
}

// Masses of pages [0, own) in double.
std::vector<double> masses(const BlockCase& c, const BlockData& data, const std::vector<bf16>& means, size_t sequence,
                           int32_t own, const bf16* q, float scale) {
  std::vector<double> mass(static_cast<size_t>(own), 0.0);
  for (int64_t head = 0; head < c.heads; ++head) {
    std::vector<double> weights;
    for (int32_t place = 0; place < own; ++place) {
      const int32_t page = data.pages[sequence * static_cast<size_t>(data.max_pages) + static_cast<size_t>(place)];
      const bf16* mean = means.data() + page * data.means_stride;
      double score = 0;
      for (int64_t i = 0; i < c.width(); ++i)
        score += double{bf16_to_f32(q[head * c.width() + i].bits)} * bf16_to_f32(mean[i].bits);
      weights.push_back(std::exp(score * scale));
    }
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (size_t i = 0; i < weights.size(); ++i) mass[i] += weights[i] / sum;
  }
  return mass;
}

TEST(CudaBlock, ChoosesThePagesOfGreatestMass) {
  for (const BlockCase& c : {BlockCase{64, 16, 20, {64 * 30 + 5, 64 * 9}}, BlockCase{256, 32, 4, {64 * 12, 70}},
                             BlockCase{512, 64, 16, {64 * 8 + 63, 3}}}) {
    BlockData data(c);
    const std::vector<bf16> means = means_by_formula(c, data, c.lengths);
    constexpr int32_t kPages = 6, kSink = 1, kWindow = 2;
    const std::vector<int32_t> sequences{0, 0, 1}, positions{c.lengths[0] - 1, 64 * 7, c.lengths[1] - 1};
    const std::vector<bf16> q = random_bf16(3 * int64_t{c.heads} * c.width(), 4, 2);
    const float scale = 4 / std::sqrt(static_cast<float>(c.width()));
    for (const uint64_t seed : kSeeds) {
      grid::configure({.seed = seed});
      Guarded<float> mass(3 * int64_t{data.max_pages});
      Guarded<int32_t> list(3 * kPages), lengths(3);
      block_select({.q = q.data(),
                    .means = means.data(),
                    .means_stride = data.means_stride,
                    .pages = data.pages.data(),
                    .token_sequence = sequences.data(),
                    .positions = positions.data(),
                    .mass = mass.data(),
                    .list = list.data(),
                    .lengths = lengths.data(),
                    .tokens = 3,
                    .heads = c.heads,
                    .latent = c.latent,
                    .rope = c.rope,
                    .max_pages = data.max_pages,
                    .num_pages = kPages,
                    .sink_pages = kSink,
                    .window_pages = kWindow,
                    .scale = scale},
                   nullptr);
      EXPECT_EQ(grid::last_launch().bank_conflicts, 0);
      EXPECT_TRUE(mass.guards_intact() && list.guards_intact() && lengths.guards_intact());
      for (size_t token = 0; token < 3; ++token) {
        const int32_t own = positions[token] / kPageTokens, listed = std::min(own + 1, kPages);
        const auto chosen = list.values().subspan(token * kPages, static_cast<size_t>(listed));
        ASSERT_EQ(lengths[static_cast<int64_t>(token)],
                  (listed - 1) * kPageTokens + positions[token] % kPageTokens + 1);
        ASSERT_TRUE(std::is_sorted(chosen.begin(), chosen.end())) << fmt::format("{}", fmt::join(chosen, " "));
        ASSERT_EQ(std::adjacent_find(chosen.begin(), chosen.end()), chosen.end());
        EXPECT_EQ(chosen.back(), own);
        if (own + 1 <= kPages) continue;
        EXPECT_EQ(chosen[0], 0);
        EXPECT_EQ(chosen[kPages - kWindow], own - kWindow + 1);
        const std::vector<double> want = masses(c, data, means, sequences[token], own,
                                                q.data() + token * static_cast<size_t>(c.heads * c.width()), scale);
        double least_chosen = 1e9, most_left = 0;
        for (int32_t page = kSink; page < own - kWindow + 1; ++page) {
          const bool taken = std::find(chosen.begin(), chosen.end(), page) != chosen.end();
          if (taken) least_chosen = std::min(least_chosen, want[static_cast<size_t>(page)]);
          if (!taken) most_left = std::max(most_left, want[static_cast<size_t>(page)]);
        }
        // Scores of a few dozen units, each a chain of `width` roundings: exp errs relatively by that.
        EXPECT_GE(least_chosen, most_left * (1 - 4 * c.width() * kUnit * 32)) << "token " << token << " seed " << seed;
      }
    }
  }
}

TEST(CudaBlockDeathTest, ShapesAreChecked) {
  EXPECT_DEATH(block_select({.latent = 64, .rope = 16, .num_pages = 2, .sink_pages = 2}, nullptr), "found 2 1 2");
  EXPECT_DEATH(block_select({.latent = 64, .rope = 64, .num_pages = 2}, nullptr), "found 64 64");
  EXPECT_DEATH(block_means({.width = 63}, nullptr), "found 63");
}

}  // namespace
}  // namespace sluice::cuda
