// Attention of prompt chunks on the emulated grid: the kernel against the formula over the same bf16 keys and values,
// the whole chain (gather, expand, attend) against the oracle, and what a row's bits may not depend on.
#include "kernels/cuda/attention/mla_prefill.h"

#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/weight_layout.h"
#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

struct PrefillCase {
  int32_t latent, rope, nope, v, heads;
  std::vector<int32_t> lengths, queries;  // [sequences]
  float sharpness = 1;                    // deviation of the scores

  int32_t key() const { return nope + rope; }
  int32_t entry() const { return latent + rope; }
  int32_t expanded() const { return heads * (nope + v); }
  int32_t sequences() const { return static_cast<int32_t>(lengths.size()); }
  int32_t tokens() const { return std::accumulate(queries.begin(), queries.end(), 0); }
  int32_t longest() const { return *std::max_element(lengths.begin(), lengths.end()); }
  float scale() const { return sharpness / std::sqrt(static_cast<float>(key())); }
  std::string text() const {
    return fmt::format("latent {} heads {} lengths [{}] queries [{}]", latent, heads, fmt::join(lengths, " "),
                       fmt::join(queries, " "));
  }
};

// Entries of all positions in pages, kv_b, and the expanded keys and values as the product gives them: rounded to bf16.
struct PrefillData {
  explicit PrefillData(const PrefillCase& c) : page_stride(int64_t{kPageTokens} * c.entry() + 40) {
    max_pages = (c.longest() + kPageTokens - 1) / kPageTokens + 1;
    pages = shuffled(max_pages * c.sequences(), 3);
    cache.assign(static_cast<size_t>(max_pages * c.sequences() * page_stride), {0xFFFF});
    q = random_bf16(int64_t{c.tokens()} * c.heads * c.key(), 4);
    kv_b = random_bf16(int64_t{c.expanded()} * c.latent, 5, 1 / std::sqrt(static_cast<double>(c.latent)));
    query_begin = {0};
    for (int32_t s = 0; s < c.sequences(); ++s) {
      query_begin.push_back(query_begin.back() + c.queries[static_cast<size_t>(s)]);
      for (int32_t p = 0; p < c.lengths[static_cast<size_t>(s)]; ++p) {
        const std::vector<bf16> entry = random_bf16(c.entry(), static_cast<uint64_t>(1000 * s + p));
        const int32_t page = pages[static_cast<size_t>(s * max_pages + p / kPageTokens)];
        std::copy(entry.begin(), entry.end(), cache.begin() + page * page_stride + p % kPageTokens * c.entry());
      }
    }
  }
  const bf16* entry(const PrefillCase& c, int32_t sequence, int32_t position) const {
    const int32_t page = pages[static_cast<size_t>(sequence * max_pages + position / kPageTokens)];
    return cache.data() + page * page_stride + position % kPageTokens * c.entry();
  }

  int64_t page_stride;
  int32_t max_pages = 0;
  std::vector<int32_t> pages, query_begin;
  std::vector<bf16> cache, q, kv_b;
};

// Windows of `window` positions, each gathered, expanded and attended.
std::vector<bf16> attend_on_grid(const PrefillCase& c, const PrefillData& data, int32_t window, int32_t query_tile,
                                 uint64_t seed) {
  grid::configure({.seed = seed});
  std::vector<std::byte> weights(data.kv_b.size() * 2);
  shuffle_bf16(data.kv_b.data(), c.expanded(), c.latent, reinterpret_cast<uint32_t*>(weights.data()));
  Guarded<bf16> out(int64_t{c.tokens()} * c.heads * c.v);
  Guarded<float> carry(int64_t{c.tokens()} * c.heads * (c.v + kPrefillCarry));
  for (int32_t begin = 0; begin < c.longest(); begin += window) {
    std::vector<int32_t> key_begin;
    int32_t rows = 1;  // nobody's
    for (const int32_t length : c.lengths) {
      key_begin.push_back(rows);
      rows += std::clamp(length - begin, 0, window);
    }
    Guarded<bf16> entries(int64_t{rows} * c.entry()), expanded(int64_t{rows} * c.expanded());
    gather_entries({.cache = data.cache.data(),
                    .page_stride = data.page_stride,
                    .pages = data.pages.data(),
                    .lengths = c.lengths.data(),
                    .key_begin = key_begin.data(),
                    .entries = entries.data(),
                    .sequences = c.sequences(),
                    .max_pages = data.max_pages,
                    .width = c.entry(),
                    .window_begin = begin,
                    .window_end = std::min(begin + window, data.max_pages * kPageTokens)},
                   nullptr);
    EXPECT_TRUE(entries.guards_intact() && entries.untouched(0, c.entry())) << c.text();
    bf16_gemm({.x = entries.data(),
               .weights = weights.data(),
               .y = expanded.data(),
               .rows = rows,
               .n = c.expanded(),
               .k = c.latent,
               .x_stride = c.entry(),
               .y_stride = c.expanded()},
              {.tile_rows = 64, .splits = 1}, nullptr);
    mla_prefill({.q = data.q.data(),
                 .entries = entries.data(),
                 .keys_values = expanded.data(),
                 .query_begin = data.query_begin.data(),
                 .lengths = c.lengths.data(),
                 .key_begin = key_begin.data(),
                 .out = out.data(),
                 .carry = c.longest() > window ? carry.data() : nullptr,
                 .sequences = c.sequences(),
                 .heads = c.heads,
                 .latent = c.latent,
                 .rope = c.rope,
                 .nope = c.nope,
                 .v = c.v,
                 .max_queries = *std::max_element(c.queries.begin(), c.queries.end()),
                 .window_begin = begin,
                 .window_end = begin + window,
                 .scale = c.scale()},
                {.query_tile = query_tile}, nullptr);
    EXPECT_EQ(grid::last_launch().bank_conflicts, 0) << c.text();
  }
  EXPECT_TRUE(out.guards_intact() && carry.guards_intact()) << c.text();
  return {out.values().begin(), out.values().end()};
}

std::vector<float> attend_by_oracle(const PrefillCase& c, const PrefillData& data) {
  const std::vector<float> kv_b = to_f32(data.kv_b), q = to_f32(data.q);
  std::vector<Weight> k_up, v_up;
  for (int64_t head = 0; head < c.heads; ++head) {
    const float* first = kv_b.data() + head * (c.nope + c.v) * c.latent;
    k_up.push_back({WeightFormat::kF32, c.nope, c.latent, reinterpret_cast<const std::byte*>(first)});
    v_up.push_back(
        {WeightFormat::kF32, c.v, c.latent, reinterpret_cast<const std::byte*>(first + int64_t{c.nope} * c.latent)});
  }
  std::vector<PageId> pages;
  for (const int32_t page : data.pages) pages.push_back(PageId{page});
  std::vector<SequenceSpan> spans;
  for (size_t s = 0; s < c.lengths.size(); ++s)
    spans.push_back({data.query_begin[s], c.lengths[s] - c.queries[s], c.lengths[s],
                     pages.data() + static_cast<int64_t>(s) * data.max_pages});
  std::vector<std::byte> cache(data.cache.size() * 2);
  std::memcpy(cache.data(), data.cache.data(), cache.size());
  std::vector<float> out(static_cast<size_t>(c.tokens() * c.heads * c.v));
  TestContext context;
  ref::latent_attention_expanded({.q = q.data(),
                                  .out = out.data(),
                                  .sequences = spans,
                                  .cache = {cache.data(), data.page_stride * 2, DType::kBF16},
                                  .heads = c.heads,
                                  .nope_dim = c.nope,
                                  .rope_dim = c.rope,
                                  .v_dim = c.v,
                                  .kv_lora_rank = c.latent,
                                  .scale = c.scale(),
                                  .k_up = k_up,
                                  .k_up_t = {},
                                  .v_up = v_up},
                                 context);
  return out;
}

// Roundings to bf16, u each: of the keys, which moves a score by at most u * scale * |q| |k| <= u * 3 * sharpness for
// these inputs (deviation 1, at most sqrt(3)), and so a probability relatively by twice that; of the values, the
// probabilities and the result. In an element each counts with at most the largest value met (5 deviations), over
// the whole with the result's norm times the probabilities' spread, which 4 covers.
void expect_attention(const std::vector<bf16>& got, const std::vector<float>& want, const PrefillCase& c,
                      const std::string& what) {
  constexpr double kMaxValue = 5;
  const double units = 2 + 2 * 3 * c.sharpness;
  expect_close(
      to_f32(got), want, c.v, 4 * kBf16Unit * c.sharpness,
      [&](size_t i) { return kBf16Unit * (std::abs(want[i]) + units * kMaxValue / 4); }, what);
}

const std::vector<PrefillCase> kCases = {
    {64, 16, 32, 32, 3, {70, 1, 64, 200, 130}, {70, 1, 64, 72, 2}},  // whole prompts and chunks behind a prefix
    {64, 16, 32, 32, 2, {150, 5}, {22, 0}, 4},                       // a sequence without a query
    {256, 32, 64, 64, 2, {100}, {36}},
    {512, 64, 128, 128, 1, {90}, {26}},
};

TEST(CudaMlaPrefill, MatchesTheOracle) {
  for (const PrefillCase& c : kCases) {
    const PrefillData data(c);
    const std::vector<float> want = attend_by_oracle(c, data);
    for (const uint64_t seed : kSeeds) {
      const int32_t window = seed == 3 ? 64 : 256, tile = seed == 2 ? 64 : 128;
      expect_attention(attend_on_grid(c, data, window, tile, seed), want, c,
                       c.text() + fmt::format(" window {} tile {} seed {}", window, tile, seed));
    }
  }
}

bool same(std::span<const bf16> a, std::span<const bf16> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

// Windows, tiles, neighbours, the cut into chunks and the order of threads do not show in a row's bits.
TEST(CudaMlaPrefill, BitsDependOnTheRowAlone) {
  const PrefillCase c{64, 16, 32, 32, 2, {70, 200}, {6, 136}};
  const PrefillData data(c);
  const std::vector<bf16> want = attend_on_grid(c, data, 256, 64, 1);
  EXPECT_TRUE(same(attend_on_grid(c, data, 256, 128, 2), want));
  EXPECT_TRUE(same(attend_on_grid(c, data, 64, 64, 3), want));
  EXPECT_TRUE(same(attend_on_grid(c, data, 128, 128, 4), want));

  // The second sequence alone, in two chunks: its positions [64, 128), then [128, 200).
  const int64_t row = int64_t{c.heads} * c.key(), out_row = int64_t{c.heads} * c.v;
  std::vector<bf16> chunks;
  for (const auto& [begin, end] : {std::pair{64, 128}, {128, 200}}) {
    PrefillData part = data;
    part.pages.erase(part.pages.begin(), part.pages.begin() + data.max_pages);
    part.q = {data.q.begin() + (6 + begin - 64) * row, data.q.begin() + (6 + end - 64) * row};
    part.query_begin = {0, end - begin};
    const std::vector<bf16> out = attend_on_grid({64, 16, 32, 32, 2, {end}, {end - begin}}, part, 256, 64, 5);
    chunks.insert(chunks.end(), out.begin(), out.end());
  }
  EXPECT_TRUE(same(chunks, std::span(want).subspan(static_cast<size_t>(6 * out_row))));
}

TEST(CudaMlaPrefill, ThePlanFitsTheWorkspace) {
  EXPECT_EQ(choose_prefill_config(64).query_tile, 64);
  EXPECT_EQ(choose_prefill_config(65).query_tile, 128);
  const MlaPrefillParams v3{.heads = 128, .latent = 512, .rope = 64, .nope = 128, .v = 128};  // 66,688 bytes a position
  EXPECT_EQ(choose_prefill_window(int64_t{1} << 30, 1, v3), 251 * 64);
  EXPECT_EQ(choose_prefill_window(int64_t{1} << 30, 4, v3), 62 * 64);
  EXPECT_EQ(choose_prefill_window(1, 4, v3), 64);
}

TEST(CudaMlaPrefillDeathTest, ShapesAreChecked) {
  EXPECT_DEATH(mla_prefill({.heads = 1, .latent = 128, .scale = 1}, {}, nullptr), "latent is one of.*found 128");
  EXPECT_DEATH(mla_prefill({.heads = 1, .latent = 64, .rope = 16, .nope = 32, .v = 64, .scale = 1}, {}, nullptr),
               "found 64 16 32 64");
  EXPECT_DEATH(mla_prefill({.heads = 1, .window_end = 32, .scale = 1}, {}, nullptr), "found 0 32");
  EXPECT_DEATH(
      mla_prefill({.heads = 1, .latent = 64, .rope = 16, .nope = 32, .v = 32, .scale = 1}, {.query_tile = 32}, nullptr),
      "found 32");
  EXPECT_DEATH(gather_entries({.max_pages = 1, .width = 8, .window_end = 65}, nullptr), "found 65 1");
}

}  // namespace
}  // namespace sluice::cuda
