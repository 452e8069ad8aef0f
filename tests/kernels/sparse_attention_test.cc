// Latent attention over chosen positions against the oracle, and the rule of same bits. Entries that are not chosen are
// NaN: reading one of them shows.
#include <string>
#include <vector>

#include "tests/kernels/sparse_case.h"

namespace sluice {
namespace {

class SparseAttentionTest : public BackendTest {};
class ScatterRowsTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(SparseAttentionTest);
SLUICE_FOR_PRODUCT_BACKENDS(ScatterRowsTest);

struct Sparse {
  int32_t kv_lora_rank, rope_dim, nope_dim, heads, num_positions;
  DType dtype = DType::kF32;

  int32_t width() const { return kv_lora_rank + rope_dim; }
  std::string text() const {
    return fmt::format("latent {} rope {} nope {} heads {} positions {} {}", kv_lora_rank, rope_dim, nope_dim, heads,
                       num_positions, name(dtype));
  }
};

struct Piece {
  int32_t sequence, begin, end;
};

// Chosen positions, entries and queries are pure functions of (sequence, position).
class World {
 public:
  World(const Sparse& shape, const std::vector<int32_t>& lengths) : shape_(shape), lengths_(lengths) {}

  std::vector<int32_t> chosen(int32_t sequence, int32_t t) const {
    std::vector<int32_t> order = shuffled(t + 1, static_cast<uint64_t>(100 * sequence + t));
    order.resize(static_cast<size_t>(shape_.num_positions));
    std::sort(order.begin(), order.end());
    return order;
  }

  // Latents of the pieces' rows: [heads][rows][kv_lora_rank], put into [rows][heads][kv_lora_rank].
  std::vector<float> attend(const Backend& backend, const std::vector<Piece>& pieces, OpContext& context) const {
    PagedPool pool(lengths_, shape_.width(), shape_.dtype);
    std::vector<SequenceSpan> spans;
    std::vector<int32_t> positions;
    std::vector<std::pair<int32_t, int32_t>> rows;  // (sequence, position)
    int32_t batch_rows = 1;                         // a foreign row in front and between
    for (const Piece& piece : pieces) {
      spans.push_back({batch_rows, piece.begin, piece.end, pool.pages(piece.sequence)});
      batch_rows += piece.end - piece.begin + 1;
      for (int32_t t = piece.begin; t < piece.end; ++t) {
        rows.emplace_back(piece.sequence, t);
        for (int32_t s : chosen(piece.sequence, t)) {
          positions.push_back(s);
          for (int32_t d = 0; d < shape_.width(); ++d)
            pool.write(piece.sequence, s, d,
                       value_at(10 + static_cast<uint64_t>(piece.sequence), int64_t{s} * shape_.width() + d));
        }
      }
    }
    const auto count = static_cast<int64_t>(rows.size());
    const int64_t q_dim = shape_.nope_dim + shape_.rope_dim, rank = shape_.kv_lora_rank;
    std::vector<float> q(static_cast<size_t>(batch_rows * shape_.heads * q_dim),
                         std::numeric_limits<float>::quiet_NaN());
    std::vector<float> absorbed(static_cast<size_t>(shape_.heads * count * rank));
    int64_t i = 0;
    for (const SequenceSpan& span : spans)
      for (int32_t t = span.position_begin; t < span.position_end; ++t, ++i)
        for (int32_t head = 0; head < shape_.heads; ++head) {
          const auto seed = static_cast<uint64_t>(20 + rows[static_cast<size_t>(i)].first);
          const int64_t source = (int64_t{t} * shape_.heads + head) * shape_.width();
          float* rope = q.data() + ((span.row_begin + t - span.position_begin) * shape_.heads + head) * q_dim;
          for (int32_t d = 0; d < shape_.rope_dim; ++d) rope[shape_.nope_dim + d] = value_at(seed, source + d);
          for (int32_t d = 0; d < rank; ++d)
            absorbed[static_cast<size_t>((head * count + i) * rank + d)] = value_at(seed, source + shape_.rope_dim + d);
        }
    Guarded<float> latents(shape_.heads * count * rank);
    backend.sparse_attention({.q = q.data(),
                              .absorbed = absorbed.data(),
                              .positions = positions.data(),
                              .sequences = spans,
                              .cache = pool.cache(),
                              .heads = shape_.heads,
                              .nope_dim = shape_.nope_dim,
                              .rope_dim = shape_.rope_dim,
                              .kv_lora_rank = shape_.kv_lora_rank,
                              .num_positions = shape_.num_positions,
                              .scale = 1 / std::sqrt(static_cast<float>(shape_.width())),
                              .latents = latents.data()},
                             context);
    EXPECT_TRUE(latents.guards_intact()) << backend.name << " " << shape_.text();
    std::vector<float> by_row;
    for (int64_t row = 0; row < count; ++row)
      for (int64_t head = 0; head < shape_.heads; ++head) {
        const auto from =
            latents.values().subspan(static_cast<size_t>((head * count + row) * rank), static_cast<size_t>(rank));
        by_row.insert(by_row.end(), from.begin(), from.end());
      }
    return by_row;
  }

 private:
  Sparse shape_;
  std::vector<int32_t> lengths_;
};

constexpr Sparse kShapes[] = {
    {64, 16, 32, 8, 64},  {48, 6, 20, 17, 65, DType::kBF16}, {16, 2, 1, 1, 1},  {80, 16, 33, 3, 7, DType::kBF16},
    {32, 8, 16, 33, 200}, {512, 64, 128, 16, 130},           {64, 0, 8, 16, 63}};

TEST_P(SparseAttentionTest, MatchesTheOracle) {
  for (const Sparse& shape : kShapes) {
    const World world(shape, {300, 200});
    const std::vector<Piece> pieces = {{0, 297, 300}, {1, 199, 200}, {0, 200, 202}, {1, 199, 199}};
    TestContext context(2), single;
    const std::vector<float> got = world.attend(backend(), pieces, context);
    const std::vector<float> want = world.attend(oracle(), pieces, single);
    // Scores of deviation 1 from a chain of `width` roundings, exp (3 u) and the peak's difference; then sums over the
    // positions in tiles of 64, and a quotient. Independent roundings: their root. Latents are means, below 2 at most.
    const double bound = kUnit * (std::sqrt(2.0 * shape.width() + 64 + shape.num_positions / 64.0) + 6);
    expect_close(
        got, want, shape.kv_lora_rank, bound, [&](size_t) { return 6 * bound; }, shape.text());
  }
}

TEST_P(SparseAttentionTest, SameBitsInAnyBatchTeamAndInstructionSet) {
  for (const Sparse& shape : kShapes) {
    const World world(shape, {300, 220});
    const int64_t row_size = int64_t{shape.heads} * shape.kv_lora_rank;
    TestContext context(1), team(3);
    const std::vector<float> whole = world.attend(*product_backends().front(), {{0, 280, 300}}, context);
    const auto expect = [&](const std::vector<float>& got, int64_t at, int32_t begin, int32_t end) {
      const auto count = static_cast<size_t>((end - begin) * row_size);
      expect_same_bits(std::span(got).subspan(static_cast<size_t>(at * row_size), count),
                       std::span(whole).subspan(static_cast<size_t>((begin - 280) * row_size), count), row_size,
                       fmt::format("{} positions [{}, {})", shape.text(), begin, end));
    };
    expect(world.attend(backend(), {{0, 280, 300}}, team), 0, 280, 300);
    expect(world.attend(backend(), {{0, 299, 300}}, context), 0, 299, 300);
    expect(world.attend(backend(), {{1, 210, 213}, {0, 284, 286}, {1, 219, 220}}, team), 3, 284, 286);
  }
}

// By hand: attention to one position is that position's latent, whatever the query.
TEST_P(SparseAttentionTest, OnePositionIsItsOwnLatent) {
  const Sparse shape{64, 16, 32, 8, 1};
  const World world(shape, {100});
  TestContext context;
  const std::vector<float> got = world.attend(backend(), {{0, 99, 100}}, context);
  const int32_t s = world.chosen(0, 99)[0];
  std::vector<float> want;
  for (int32_t head = 0; head < shape.heads; ++head)
    for (int32_t d = 0; d < shape.kv_lora_rank; ++d) want.push_back(value_at(10, int64_t{s} * shape.width() + d));
  expect_same_bits(got, want, shape.kv_lora_rank, "one position");
}

TEST_P(SparseAttentionTest, NoRows) {
  const World world({64, 16, 32, 8, 5}, {100});
  TestContext context(2);
  EXPECT_TRUE(world.attend(backend(), {}, context).empty());
}

TEST_P(ScatterRowsTest, PutsRowsWhereTheyBelong) {
  for (int64_t cols : {1, 7, 128}) {
    for (int32_t rows : {0, 1, 500}) {
      std::vector<int32_t> row_ids = shuffled(rows + 3, 5);
      row_ids.resize(static_cast<size_t>(rows));
      const std::vector<float> x = random_values(rows * cols, 6);
      Guarded<float> y((rows + 3) * cols);
      TestContext context(3);
      backend().scatter_rows({.x = x.data(), .row_ids = row_ids.data(), .y = y.data(), .rows = rows, .cols = cols},
                             context);
      EXPECT_TRUE(y.guards_intact());
      std::vector<bool> written(static_cast<size_t>(rows + 3), false);
      for (int32_t i = 0; i < rows; ++i) {
        written[static_cast<size_t>(row_ids[static_cast<size_t>(i)])] = true;
        for (int64_t j = 0; j < cols; ++j)
          ASSERT_EQ(y[row_ids[static_cast<size_t>(i)] * cols + j], x[static_cast<size_t>(i * cols + j)]);
      }
      for (int32_t row = 0; row < rows + 3; ++row)
        EXPECT_TRUE(written[static_cast<size_t>(row)] || y.untouched(row * cols, (row + 1) * cols)) << row;
    }
  }
}

}  // namespace
}  // namespace sluice
