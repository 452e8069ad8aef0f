// Latent attention on the emulated grid against the oracle's absorbed form. The kernel takes queries that are absorbed
// already and gives mixed latents, so the oracle gets identity matrices for K_h^T and V_h.
#include "kernels/cuda/attention/mla.h"
#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

struct MlaCase {
  int32_t latent, rope, heads;
  std::vector<int32_t> lengths, queries;  // [sequences]
  float sharpness = 1;                    // deviation of the scores

  int32_t width() const { return latent + rope; }
  int32_t sequences() const { return static_cast<int32_t>(lengths.size()); }
  int32_t tokens() const { return std::accumulate(queries.begin(), queries.end(), 0); }
  float scale() const { return sharpness / std::sqrt(static_cast<float>(width())); }
};

// Queries, cache and pages of a case: every entry that a sequence may not read is NaN, and so is what lies between
// layers.
struct MlaData {
  explicit MlaData(const MlaCase& c) : page_stride(int64_t{kPageTokens} * c.width() + 40) {
    for (const int32_t length : c.lengths) max_pages = std::max(max_pages, (length + kPageTokens - 1) / kPageTokens);
    ++max_pages;  // the grid provides for more than any sequence has
    const int32_t num_pages = max_pages * c.sequences();
    pages = shuffled(num_pages, 3);
    cache.assign(static_cast<size_t>(num_pages * page_stride), {0xFFFF});
    q = random_bf16(int64_t{c.tokens()} * c.heads * c.width(), 4);
    query_begin = {0};
    for (int32_t s = 0; s < c.sequences(); ++s) {
      query_begin.push_back(query_begin.back() + c.queries[static_cast<size_t>(s)]);
      for (int32_t p = 0; p < c.lengths[static_cast<size_t>(s)]; ++p) {
        const int32_t page = pages[static_cast<size_t>(s * max_pages + p / kPageTokens)];
        const std::vector<bf16> entry = random_bf16(c.width(), static_cast<uint64_t>(1000 * s + p));
        std::copy(entry.begin(), entry.end(), cache.begin() + page * page_stride + p % kPageTokens * c.width());
      }
    }
  }

  int64_t page_stride;
  int32_t max_pages = 0;
  std::vector<int32_t> pages, query_begin;
  std::vector<bf16> cache, q;
};

std::vector<float> attend_by_oracle(const MlaCase& c, const MlaData& data) {
  std::vector<float> identity(static_cast<size_t>(c.latent) * static_cast<size_t>(c.latent), 0.0f);
  for (int64_t i = 0; i < c.latent; ++i) identity[static_cast<size_t>(i * c.latent + i)] = 1;
  const std::vector<Weight> matrices(
      static_cast<size_t>(c.heads),
      Weight{WeightFormat::kF32, c.latent, c.latent, reinterpret_cast<const std::byte*>(identity.data())});
  std::vector<PageId> pages;
  for (const int32_t page : data.pages) pages.push_back(PageId{page});
  std::vector<SequenceSpan> spans;
  for (size_t s = 0; s < c.lengths.size(); ++s)
    spans.push_back({data.query_begin[s], c.lengths[s] - c.queries[s], c.lengths[s],
                     pages.data() + static_cast<int64_t>(s) * data.max_pages});
  std::vector<std::byte> cache(data.cache.size() * 2);
  std::memcpy(cache.data(), data.cache.data(), cache.size());
  const std::vector<float> q = to_f32(data.q);
  std::vector<float> out(static_cast<size_t>(c.tokens() * c.heads * c.latent));
  TestContext context;
  ref::latent_attention_absorbed({.q = q.data(),
                                  .out = out.data(),
                                  .sequences = spans,
                                  .cache = {cache.data(), data.page_stride * 2, DType::kBF16},
                                  .heads = c.heads,
                                  .nope_dim = c.latent,
                                  .rope_dim = c.rope,
                                  .v_dim = c.latent,
                                  .kv_lora_rank = c.latent,
                                  .scale = c.scale(),
                                  .k_up = {},
                                  .k_up_t = matrices,
                                  .v_up = matrices},
                                 context);
  return out;
}

std::vector<bf16> attend_on_grid(const MlaCase& c, const MlaData& data, const MlaConfig& config, uint64_t seed) {
  grid::configure({.seed = seed});
  MlaDecodeParams params{.q = data.q.data(),
                         .cache = data.cache.data(),
                         .page_stride = data.page_stride,
                         .pages = data.pages.data(),
                         .lengths = c.lengths.data(),
                         .query_begin = data.query_begin.data(),
                         .sequences = c.sequences(),
                         .heads = c.heads,
                         .latent = c.latent,
                         .rope = c.rope,
                         .max_pages = data.max_pages,
                         .max_queries = *std::max_element(c.queries.begin(), c.queries.end()),
                         .scale = c.scale()};
  const int64_t rows = int64_t{c.tokens()} * c.heads, splits = max_splits(params, config);
  Guarded<bf16> out(rows * c.latent);
  Guarded<float> partial(rows * splits * c.latent), lse(rows * splits);
  params.out = out.data();
  params.partial = partial.data();
  params.partial_lse = lse.data();
  mla_decode(params, config, nullptr);
  EXPECT_TRUE(out.guards_intact() && partial.guards_intact() && lse.guards_intact());
  return {out.values().begin(), out.values().end()};
}

std::string text(const MlaCase& c, const MlaConfig& config) {
  return fmt::format("latent {} rope {} heads {} lengths [{}] queries [{}] row tiles {} split pages {}", c.latent,
                     c.rope, c.heads, fmt::join(c.lengths, " "), fmt::join(c.queries, " "), config.row_tiles,
                     config.split_pages);
}

// Two roundings to bf16, of the probabilities and of the result; the first errs by at most a unit of sum p |c| <= max
// |c| in an element, and both by less than a unit of the whole's norm. f32 errors of scores (width u, times their size
// of a few units) are smaller by more than ten.
void expect_attention(const std::vector<bf16>& got, const std::vector<float>& want, const MlaCase& c,
                      const std::string& what) {
  constexpr double kMaxEntry = 1.7321;
  expect_close(
      to_f32(got), want, c.latent, 2 * kBf16Unit, [&](size_t i) { return kBf16Unit * (std::abs(want[i]) + kMaxEntry); },
      what);
}

TEST(CudaMlaDecode, MatchesTheOracle) {
  const std::vector<MlaCase> cases = {
      {64, 16, 4, {1, 63, 64, 65, 200}, {1, 1, 2, 8, 3}},
      {64, 16, 20, {97, 2}, {1, 2}, 4},
      {64, 16, 1, {130, 5}, {1, 0}},  // a sequence without a query: a padded batch
      {256, 32, 5, {70, 33}, {4, 1}, 4},
      {512, 64, 16, {131}, {1}},
      {512, 64, 6, {66, 9}, {1, 3}, 4},
  };
  for (const MlaCase& c : cases) {
    const MlaData data(c);
    const std::vector<float> want = attend_by_oracle(c, data);
    for (const uint64_t seed : kSeeds) {
      const MlaConfig config{.row_tiles = seed == 2 ? 2 : 1, .split_pages = seed == 3 ? 3 : 1};
      expect_attention(attend_on_grid(c, data, config, seed), want, c, text(c, config) + fmt::format(" seed {}", seed));
    }
  }
}

// Neighbours, the tile of rows and the order of threads do not show in a row's bits.
TEST(CudaMlaDecode, BitsDependOnTheRowAlone) {
  const MlaCase c{64, 16, 6, {150, 70, 300}, {2, 1, 4}};
  const MlaData data(c);
  const std::vector<bf16> want = attend_on_grid(c, data, {.row_tiles = 1, .split_pages = 2}, 1);
  const auto same = [](std::span<const bf16> a, std::span<const bf16> b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
  };
  EXPECT_TRUE(same(attend_on_grid(c, data, {.row_tiles = 2, .split_pages = 2}, 2), want));
  MlaData alone = data;
  alone.pages.erase(alone.pages.begin(), alone.pages.begin() + data.max_pages);
  alone.q.erase(alone.q.begin(), alone.q.begin() + int64_t{2} * 6 * 80);
  alone.query_begin = {0, 1};
  const MlaCase second{64, 16, 6, {70}, {1}};
  EXPECT_TRUE(same(attend_on_grid(second, alone, {.row_tiles = 1, .split_pages = 2}, 3),
                   std::span(want).subspan(2 * 6 * 64, 6 * 64)));
}

TEST(CudaMlaDecode, ThePlanFitsTheDevice) {
  EXPECT_EQ(choose_mla_config(16, 1, 227 * 1024).row_tiles, 1);
  EXPECT_EQ(choose_mla_config(128, 1, 227 * 1024).row_tiles, 2);
  EXPECT_EQ(choose_mla_config(16, 4, 163 * 1024).row_tiles, 2);
  EXPECT_EQ(choose_mla_config(128, 1, 99 * 1024).row_tiles, 1);
}

TEST(CudaMlaDecodeDeathTest, ShapesAreChecked) {
  EXPECT_DEATH(mla_decode({.heads = 1, .latent = 128, .rope = 64}, {}, nullptr), "found 128 64");
  EXPECT_DEATH(mla_decode({.heads = 1, .latent = 64, .rope = 16, .max_queries = 9}, {}, nullptr), "found 9");
  EXPECT_DEATH(mla_decode({.heads = 1, .latent = 64, .rope = 16}, {.row_tiles = 4}, nullptr), "found 4");
}

}  // namespace
}  // namespace sluice::cuda
