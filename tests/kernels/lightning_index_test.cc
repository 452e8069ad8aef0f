// The lightning indexer: keys against the oracle, choices exactly, ties included; both independent of batch, threads
// and instruction set.
#include <string>
#include <vector>

#include "tests/kernels/sparse_case.h"

namespace sluice {
namespace {

class IndexWriteTest : public BackendTest {};
class IndexSelectTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(IndexWriteTest);
SLUICE_FOR_PRODUCT_BACKENDS(IndexSelectTest);

struct Keys {
  int32_t head_dim, rope_dim;
  DType dtype;
  std::string text() const { return fmt::format("dim {} rope {} {}", head_dim, rope_dim, name(dtype)); }
};

constexpr Keys kKeys[] = {{128, 64, DType::kF32}, {128, 64, DType::kBF16}, {33, 6, DType::kF32},
                          {16, 16, DType::kBF16}, {1, 0, DType::kF32},     {1024, 2, DType::kF32}};

// Writes positions [60, 70) and [3, 4) of two sequences; returns the pool's bytes.
std::vector<std::byte> write_keys(const Backend& backend, const Keys& k, OpContext& context, PagedPool& pool) {
  const std::vector<SequenceSpan> spans = {{0, 60, 70, pool.pages(0)}, {10, 3, 4, pool.pages(1)}};
  // A mean beside zero, so that the norm has something to take away.
  std::vector<float> z = random_values(11 * k.head_dim, 1, 2);
  for (float& number : z) number += 3;
  const std::vector<float> weight = random_values(k.head_dim, 2), bias = random_values(k.head_dim, 3);
  const std::vector<float> angles = random_values(11 * k.rope_dim, 4);
  backend.index_write({.z = z.data(),
                       .norm_weight = weight.data(),
                       .norm_bias = bias.data(),
                       .eps = 1e-6f,
                       .cos_sin = angles.data(),
                       .head_dim = k.head_dim,
                       .rope_dim = k.rope_dim,
                       .sequences = spans,
                       .cache = pool.cache()},
                      context);
  return pool.bytes();
}

TEST_P(IndexWriteTest, MatchesTheOracle) {
  for (const Keys& k : kKeys) {
    PagedPool got({70, 4}, k.head_dim, k.dtype), want({70, 4}, k.head_dim, k.dtype);
    TestContext context(2), single;
    const std::vector<std::byte> bytes = write_keys(backend(), k, context, got);
    const std::vector<std::byte> expected = write_keys(oracle(), k, single, want);
    std::vector<float> found, known;
    for (const auto& [sequence, begin, end] : {std::tuple{0, 60, 70}, {1, 3, 4}}) {
      for (int32_t position = begin; position < end; ++position) {
        const std::vector<float> a = got.read(sequence, position), b = want.read(sequence, position);
        found.insert(found.end(), a.begin(), a.end());
        known.insert(known.end(), b.begin(), b.end());
      }
    }
    // The mean (about 3) is off by dim / 16 + 4 roundings at most, the deviation (2) by half as many; then five
    // operations on values of up to 1.7 * 1.7 and a rotation by cosines of up to 1.7. A cache of bf16 rounds last.
    const double f32 = (3 * (k.head_dim / 16.0 + 5) / 2 + (k.head_dim / 16.0 + 5) / 2 + 12) * kUnit * 3 * 2;
    const double bound = f32 + (k.dtype == DType::kBF16 ? 0x1p-8 : 0);
    expect_close(
        found, known, k.head_dim, bound, [&](size_t i) { return bound * std::max(1.0f, std::abs(known[i])) * 2; },
        k.text());
    // Nothing else is touched: what is poison in the one pool is poison in the other.
    size_t differing = 0;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const bool poison = expected[i] == std::byte{0xFF}, still = bytes[i] == std::byte{0xFF};
      differing += poison && !still && i % 64 == 0;
    }
    EXPECT_LE(differing, 1u) << k.text();
  }
}

TEST_P(IndexWriteTest, SameBits) {
  for (const Keys& k : kKeys) {
    PagedPool first({70, 4}, k.head_dim, k.dtype), again({70, 4}, k.head_dim, k.dtype);
    TestContext context(1), team(3);
    EXPECT_EQ(write_keys(*product_backends().front(), k, context, first), write_keys(backend(), k, team, again))
        << k.text();
  }
}

struct Choice {
  int32_t heads, head_dim, top_k;
  DType dtype = DType::kF32;
  std::string text() const { return fmt::format("heads {} dim {} top {} {}", heads, head_dim, top_k, name(dtype)); }
};

struct Piece {
  int32_t sequence, begin, end;
};

// Keys and queries that are pure functions of (sequence, position): small integers, so that every score is exact in any
// order of summation and ties are many; or values as they come.
class World {
 public:
  World(const Choice& choice, std::vector<int32_t> lengths, bool integers)
      : choice_(choice), integers_(integers), pool_(lengths, choice.head_dim, choice.dtype) {
    for (size_t i = 0; i < lengths.size(); ++i)
      for (int32_t position = 0; position < lengths[i]; ++position)
        for (int32_t d = 0; d < choice.head_dim; ++d)
          pool_.write(static_cast<int32_t>(i), position, d, number(10 + i, int64_t{position} * choice.head_dim + d));
  }

  // The pieces' rows' positions, one after the other.
  std::vector<int32_t> select(const Backend& backend, const std::vector<Piece>& pieces, OpContext& context) {
    std::vector<SequenceSpan> spans;
    int32_t rows = 1;  // a foreign row in front and between
    int64_t count = 0;
    for (const Piece& piece : pieces) {
      spans.push_back({rows, piece.begin, piece.end, pool_.pages(piece.sequence)});
      rows += piece.end - piece.begin + 1;
      count += piece.end - piece.begin;
    }
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const int64_t q_row = choice_.heads * choice_.head_dim;
    std::vector<float> q(static_cast<size_t>(rows * q_row), nan), w(static_cast<size_t>(rows * choice_.heads), nan);
    for (size_t i = 0; i < pieces.size(); ++i)
      for (int32_t t = pieces[i].begin; t < pieces[i].end; ++t) {
        const int64_t row = spans[i].row_begin + t - pieces[i].begin;
        const auto seed = static_cast<uint64_t>(pieces[i].sequence);
        for (int64_t j = 0; j < q_row; ++j) q[static_cast<size_t>(row * q_row + j)] = number(20 + seed, t * q_row + j);
        for (int64_t j = 0; j < choice_.heads; ++j)
          w[static_cast<size_t>(row * choice_.heads + j)] = number(30 + seed, t * choice_.heads + j);
      }
    Guarded<int32_t> positions(count * choice_.top_k);
    backend.index_select({.q = q.data(),
                          .weights = w.data(),
                          .sequences = spans,
                          .cache = pool_.cache(),
                          .heads = choice_.heads,
                          .head_dim = choice_.head_dim,
                          .top_k = choice_.top_k,
                          .positions = positions.data()},
                         context);
    EXPECT_TRUE(positions.guards_intact()) << backend.name << " " << choice_.text();
    return {positions.values().begin(), positions.values().end()};
  }

 private:
  float number(uint64_t seed, int64_t index) const {
    return integers_ ? static_cast<float>(static_cast<int32_t>(random_bits(seed, index) % 5) - 2)
                     : value_at(seed, index);
  }

  Choice choice_;
  bool integers_;
  PagedPool pool_;
};

constexpr Choice kChoices[] = {{64, 128, 200},
                               {1, 1, 7},
                               {3, 17, 64, DType::kBF16},
                               {16, 32, 1},
                               {33, 16, 130},
                               {8, 64, 601, DType::kBF16},
                               {2, 2, 5},
                               {4, 128, 63, DType::kBF16}};

TEST_P(IndexSelectTest, ChoosesExactlyWhatTheOracleChooses) {
  for (const Choice& choice : kChoices) {
    World world(choice, {700, 1100}, /*integers=*/true);
    TestContext context(2), single;
    const int32_t first = choice.top_k - 1;  // the first position with so many candidates
    const std::vector<Piece> pieces = {
        {0, first, first + 3}, {1, 1098, 1100}, {0, 639, 641}, {0, 699, 699}, {1, 1023, 1024}};
    EXPECT_EQ(world.select(backend(), pieces, context), world.select(oracle(), pieces, single)) << choice.text();
  }
}

// By hand: all scores are equal when every weight is zero, and when no query meets its key; the lowest positions win.
TEST_P(IndexSelectTest, TiesGoToTheLowerPosition) {
  const int32_t top_k = 5, t = 99, heads = 2, dim = 16;
  PagedPool pool({100}, dim, DType::kF32);
  for (int32_t position = 0; position <= t; ++position)
    for (int32_t d = 0; d < dim; ++d) pool.write(0, position, d, position == 70 || position == 33 ? 1 : -1);
  const std::vector<SequenceSpan> spans = {{0, t, t + 1, pool.pages(0)}};
  std::vector<float> q(heads * dim, 1.0f);
  const auto select = [&](std::vector<float> weights) {
    TestContext context;
    std::vector<int32_t> positions(top_k);
    backend().index_select({.q = q.data(),
                            .weights = weights.data(),
                            .sequences = spans,
                            .cache = pool.cache(),
                            .heads = heads,
                            .head_dim = dim,
                            .top_k = top_k,
                            .positions = positions.data()},
                           context);
    return positions;
  };
  EXPECT_EQ(select({0, 0}), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(select({1, -1}), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(select({1, 1}), (std::vector<int32_t>{0, 1, 2, 33, 70}));
  // A negative weight puts -16 on 33 and 70; all others are -0 or +0, which count as equal.
  EXPECT_EQ(select({0, -1}), (std::vector<int32_t>{0, 1, 2, 3, 4}));
  // Now 33 and 70 are the two that no query meets, and all others score -32.
  for (float& number : q) number = -1;
  EXPECT_EQ(select({-1, -1}), (std::vector<int32_t>{0, 1, 2, 33, 70}));
}

TEST_P(IndexSelectTest, SameChoiceInAnyBatchChunkTeamAndInstructionSet) {
  for (const Choice& choice : kChoices) {
    World world(choice, {700, 1100}, /*integers=*/false);
    TestContext context(1), team(3);
    const int32_t first = choice.top_k - 1;
    const std::vector<int32_t> whole = world.select(*product_backends().front(), {{0, first, 700}}, context);
    const auto expect = [&](const std::vector<int32_t>& got, size_t at, int32_t begin, int32_t end) {
      const auto want = whole.begin() + int64_t{begin - first} * choice.top_k;
      EXPECT_TRUE(std::equal(want, want + int64_t{end - begin} * choice.top_k, got.begin() + static_cast<int64_t>(at)))
          << choice.text() << " positions [" << begin << ", " << end << ")";
    };
    expect(world.select(backend(), {{0, first, 700}}, team), 0, first, 700);
    expect(world.select(backend(), {{0, 640, 660}}, team), 0, 640, 660);
    expect(world.select(backend(), {{0, 699, 700}}, context), 0, 699, 700);
    const auto batch = world.select(backend(), {{1, 1000, 1003}, {0, 650, 652}, {1, 700, 701}}, team);
    expect(batch, static_cast<size_t>(3 * choice.top_k), 650, 652);
  }
}

TEST_P(IndexSelectTest, NoRows) {
  World world({8, 16, 4}, {64}, true);
  TestContext context(2);
  EXPECT_TRUE(world.select(backend(), {}, context).empty());
  EXPECT_TRUE(world.select(backend(), {{0, 60, 60}}, context).empty());
}

}  // namespace
}  // namespace sluice
