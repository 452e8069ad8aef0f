// Attention over window and compressed entries with sinks, against the oracle and by hand; vectors that a row must not
// see are NaN. The rule of same bits.
#include <string>
#include <vector>

#include "tests/kernels/hybrid_case.h"

namespace sluice {
namespace {

class WindowAttentionTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(WindowAttentionTest);

struct Hybrid {
  int32_t heads, dim, rope_dim, window, ratio, num_selected;  // 0: all complete entries
  DType dtype = DType::kF32;

  std::string text() const {
    return fmt::format("heads {} dim {} rope {} window {} ratio {} selected {} {}", heads, dim, rope_dim, window, ratio,
                       num_selected, name(dtype));
  }
};

constexpr Hybrid kHybrids[] = {
    {4, 32, 8, 20, 0, 0},     {17, 16, 16, 128, 4, 0, DType::kBF16},  {1, 48, 2, 1, 4, 9},
    {16, 32, 8, 64, 128, 0},  {3, 16, 4, 65, 4, 30, DType::kBF16},    {33, 64, 64, 300, 128, 0, DType::kBF16},
    {8, 512, 64, 128, 4, 40}, {8, 512, 64, 128, 128, 0, DType::kBF16}};

// Vectors, queries and choices are pure functions of (sequence, position).
class World {
 public:
  World(const Hybrid& shape, const std::vector<int32_t>& lengths) : shape_(shape), lengths_(lengths) {}

  std::vector<int32_t> chosen(int32_t sequence, int32_t t) const {
    std::vector<int32_t> order = shuffled((t + 1) / shape_.ratio, static_cast<uint64_t>(100 * sequence + t));
    order.resize(static_cast<size_t>(shape_.num_selected));
    std::sort(order.begin(), order.end());
    return order;
  }

  // Only what the pieces' rows may see is written.
  std::vector<float> attend(const Backend& backend, const std::vector<Piece>& pieces, int threads,
                            float sink_shift = 0) const {
    HybridPool pool(lengths_, shape_.dim, std::max(4, shape_.ratio), 1, shape_.dtype);
    const auto vector_of = [&](uint64_t seed, int64_t at) {
      std::vector<float> values;
      for (int32_t d = 0; d < shape_.dim; ++d) values.push_back(value_at(seed, at * shape_.dim + d));
      return values;
    };
    std::vector<SequenceSpan> spans;
    std::vector<float> q, cos_sin;
    std::vector<int32_t> selected;
    int32_t rows = 0;
    const auto foreign_row = [&] {
      q.insert(q.end(), static_cast<size_t>(shape_.heads * shape_.dim), std::numeric_limits<float>::quiet_NaN());
      cos_sin.insert(cos_sin.end(), static_cast<size_t>(shape_.rope_dim), std::numeric_limits<float>::quiet_NaN());
      ++rows;
    };
    foreign_row();
    for (const Piece& piece : pieces) {
      const auto seed = static_cast<uint64_t>(piece.sequence);
      spans.push_back({rows, piece.begin, piece.end, pool.pages(piece.sequence)});
      for (int32_t t = piece.begin; t < piece.end; ++t, ++rows) {
        for (int32_t i = 0; i < shape_.heads * shape_.dim; ++i)
          q.push_back(value_at(30 + seed, int64_t{t} * shape_.heads * shape_.dim + i, 2));
        append_angles(t, shape_.rope_dim, cos_sin);
        for (int32_t s = std::max(0, t - shape_.window + 1); s <= t; ++s)
          pool.write_window(piece.sequence, s, vector_of(10 + seed, s).data());
        if (shape_.ratio == 0) continue;
        std::vector<int32_t> visible((t + 1) / shape_.ratio);
        std::iota(visible.begin(), visible.end(), 0);
        if (shape_.num_selected > 0) {
          visible = chosen(piece.sequence, t);
          selected.insert(selected.end(), visible.begin(), visible.end());
        }
        for (int32_t w : visible) pool.write_entry(piece.sequence, w, vector_of(20 + seed, w).data());
      }
      foreign_row();
    }
    std::vector<float> sinks = random_values(shape_.heads, 7);
    for (float& sink : sinks) sink += sink_shift;
    TestContext context(threads);
    Guarded<float> out(int64_t{rows} * shape_.heads * shape_.dim);
    backend.window_attention({.q = q.data(),
                              .sinks = sinks.data(),
                              .cos_sin = cos_sin.data(),
                              .sequences = spans,
                              .cache = pool.window(),
                              .window = shape_.window,
                              .compressed = shape_.ratio > 0 ? pool.compressed() : CompressedCache(),
                              .selected = shape_.num_selected > 0 ? selected.data() : nullptr,
                              .num_selected = shape_.num_selected,
                              .heads = shape_.heads,
                              .dim = shape_.dim,
                              .rope_dim = shape_.rope_dim,
                              .scale = 1 / std::sqrt(static_cast<float>(shape_.dim)),
                              .out = out.data()},
                             context);
    EXPECT_TRUE(out.guards_intact()) << backend.name << " " << shape_.text();
    std::vector<float> wanted;
    for (const SequenceSpan& span : spans) {
      const auto row_values = static_cast<size_t>(shape_.heads * shape_.dim);
      const auto from = out.values().subspan(static_cast<size_t>(span.row_begin) * row_values,
                                             static_cast<size_t>(span.position_end - span.position_begin) * row_values);
      wanted.insert(wanted.end(), from.begin(), from.end());
    }
    return wanted;
  }

 private:
  Hybrid shape_;
  std::vector<int32_t> lengths_;
};

// The first position with enough entries to choose from, and some borders.
std::vector<Piece> pieces_of(const Hybrid& shape) {
  const int32_t first = shape.num_selected > 0 ? shape.ratio * shape.num_selected - 1 : 0;
  return {{0, first, first + 2}, {1, 254, 258}, {0, 299, 300}, {0, 270, 270}, {1, 191, 193}};
}

TEST_P(WindowAttentionTest, MatchesTheOracle) {
  for (const Hybrid& shape : kHybrids) {
    const World world(shape, {300, 260});
    const std::vector<float> got = world.attend(backend(), pieces_of(shape), 2);
    const std::vector<float> want = world.attend(oracle(), pieces_of(shape), 1);
    // Scores of `dim` terms shift a weight by their error, 2 sqrt(dim) u of about 2 times the largest term, and the
    // weighted sum of up to 340 vectors of size 1 adds as many roundings; the rotation 3.
    const double bound = kUnit * (8 * std::sqrt(shape.dim) + 340 + 3);
    expect_close(
        got, want, shape.dim, bound, [&](size_t) { return 2 * bound; }, shape.text());
  }
}

// Position 0 with a window alone: one vector, one sink. p = 1 / (1 + exp(sink - score)).
TEST_P(WindowAttentionTest, OneVectorAndTheSinkByHand) {
  const int32_t dim = 16;
  HybridPool pool({1}, dim, 4, 1, DType::kF32);
  std::vector<float> vector(dim), q(dim, 0.5f), cos_sin = {0.6f, 0.8f};  // the last pair turned by some angle
  for (int32_t d = 0; d < dim; ++d) vector[static_cast<size_t>(d)] = static_cast<float>(d + 1);
  pool.write_window(0, 0, vector.data());
  const SequenceSpan span{0, 0, 1, pool.pages(0)};
  const float sink = 3, scale = 0.05f;
  for (const Backend* on : {&backend(), &oracle()}) {
    TestContext context;
    Guarded<float> out(dim);
    on->window_attention({.q = q.data(),
                          .sinks = &sink,
                          .cos_sin = cos_sin.data(),
                          .sequences = {&span, 1},
                          .cache = pool.window(),
                          .window = 4,
                          .heads = 1,
                          .dim = dim,
                          .rope_dim = 2,
                          .scale = scale,
                          .out = out.data()},
                         context);
    const double p = 1 / (1 + std::exp(sink - scale * 0.5 * 136));
    for (int32_t d = 0; d < 14; ++d) EXPECT_NEAR(out[d], p * (d + 1), 1e-5) << d;
    EXPECT_NEAR(out[14], p * (15 * 0.6 + 16 * 0.8), 1e-5);
    EXPECT_NEAR(out[15], p * (16 * 0.6 - 15 * 0.8), 1e-5);
  }
}

TEST_P(WindowAttentionTest, ExtremeSinksStayFinite) {
  const Hybrid shape = kHybrids[0];
  const World world(shape, {300, 260});
  for (float value : world.attend(backend(), {{0, 50, 52}}, 1, 1e4f)) EXPECT_EQ(value, 0.0f);
  const std::vector<float> without = world.attend(backend(), {{0, 50, 52}}, 1, -1e4f);
  const std::vector<float> far = world.attend(backend(), {{0, 50, 52}}, 1, -2e4f);
  expect_same_bits(without, far, shape.dim, "sinks that weigh nothing");
}

TEST_P(WindowAttentionTest, SameBitsForAnyTeamBatchAndInstructionSet) {
  for (const Hybrid& shape : kHybrids) {
    const World world(shape, {300, 260});
    const auto row_values = static_cast<size_t>(shape.heads * shape.dim);
    const std::vector<float> whole = world.attend(*product_backends().front(), {{0, 250, 300}}, 1);
    expect_same_bits(world.attend(backend(), {{0, 250, 300}}, 3), whole, shape.dim, shape.text());
    const std::vector<float> cut = world.attend(backend(), {{0, 250, 251}, {1, 200, 203}, {0, 251, 300}}, 2);
    expect_same_bits(std::span(cut).first(row_values), std::span(whole).first(row_values), shape.dim, shape.text());
    expect_same_bits(std::span(cut).subspan(4 * row_values), std::span(whole).subspan(row_values), shape.dim,
                     shape.text());
    expect_same_bits(world.attend(backend(), {{0, 299, 300}}, 1), std::span(whole).last(row_values), shape.dim,
                     shape.text());
  }
}

TEST_P(WindowAttentionTest, NoRows) {
  const World world(kHybrids[1], {64});
  EXPECT_TRUE(world.attend(backend(), {}, 2).empty());
  EXPECT_TRUE(world.attend(backend(), {{0, 60, 60}}, 2).empty());
}

// The choice among compressed entries is the choice among positions of a sequence that has one entry's key at each
// position: the same keys laid out in both ways.
TEST_P(WindowAttentionTest, ChoosingBlocksIsChoosingPositions) {
  const int32_t heads = 5, dim = 32, length = 1200, num_keys = length / 4;
  for (int32_t top_k : {1, 17, 250}) {
    HybridPool blocks({length}, dim, 4, 2, DType::kF32), positions({num_keys}, dim, 4, 1, DType::kF32);
    for (int32_t key = 0; key < num_keys; ++key) {
      const std::vector<float> values = random_values(dim, 1000 + static_cast<uint64_t>(key));
      blocks.write_entry(0, key, values.data());
      positions.write_window(0, key, values.data());
    }
    const auto select = [&](const Backend& on, int32_t t, int32_t ratio) {
      const int32_t keys_seen = ratio == 4 ? (t + 1) / 4 : t + 1;
      const std::vector<float> q = random_values(heads * dim, static_cast<uint64_t>(keys_seen));
      const std::vector<float> weights = random_values(heads, 5);
      HybridPool& pool = ratio == 4 ? blocks : positions;
      const SequenceSpan span{0, t, t + 1, pool.pages(0)};
      TestContext context(2);
      std::vector<int32_t> chosen(static_cast<size_t>(top_k));
      on.index_select({.q = q.data(),
                       .weights = weights.data(),
                       .sequences = {&span, 1},
                       .cache = ratio == 4 ? pool.compressed().entries : pool.window(),
                       .heads = heads,
                       .head_dim = dim,
                       .top_k = top_k,
                       .ratio = ratio,
                       .positions = chosen.data()},
                      context);
      return chosen;
    };
    for (int32_t seen : {top_k, top_k + 1, 255, 256, 257, num_keys}) {
      if (seen < top_k) continue;
      const std::vector<int32_t> want = select(oracle(), seen - 1, 1);
      for (int32_t t : {4 * seen - 1, std::min(length - 1, 4 * seen + 2)}) {
        EXPECT_EQ(select(backend(), t, 4), want) << top_k << " of " << seen << " at " << t;
        EXPECT_EQ(select(oracle(), t, 4), want) << top_k << " of " << seen << " at " << t;
      }
    }
  }
}

}  // namespace
}  // namespace sluice
