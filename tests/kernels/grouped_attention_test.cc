// Grouped-query attention: cache write, both forms of attention and the choice of pages, against the oracle, and the
// rule of same bits. Whatever a row may not see is NaN: entries behind it, other layers, its own page's mean and those
// beyond.
#include <map>
#include <string>
#include <vector>

#include "tests/kernels/sparse_case.h"

namespace sluice {
namespace {

class GroupedAttentionTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(GroupedAttentionTest);

struct Heads {
  int32_t heads, kv_heads, head_dim;
  DType dtype = DType::kF32;

  int32_t width() const { return kv_heads * head_dim; }
  std::string text() const { return fmt::format("{} heads / {} of {} {}", heads, kv_heads, head_dim, name(dtype)); }
};

// A head each; groups of 4, of 8 (Qwen3-30B-A3B), of 17 and of 33 heads, which fill two and three panels.
constexpr Heads kShapes[] = {
    {3, 3, 16}, {8, 2, 32, DType::kBF16}, {32, 4, 128, DType::kBF16}, {34, 2, 48}, {33, 1, 16, DType::kBF16}};
// Page borders, a partition's border (256) and one position behind each.
const std::vector<int32_t> kLengths = {1, 65, 128, 257, 260};

struct Piece {
  int32_t sequence, begin, end;
};

// Keys, values and queries are pure functions of (sequence, position).
class World {
 public:
  explicit World(const Heads& shape)
      : shape_(shape), keys_(kLengths, shape.width(), shape.dtype), values_(kLengths, shape.width(), shape.dtype) {}

  // Positions [0, end) of the pieces' sequences are in the cache; the answers of the pieces' rows.
  std::vector<float> attend(const Backend& backend, const std::vector<Piece>& pieces, bool prompt, int threads) {
    std::vector<SequenceSpan> spans;
    int32_t rows = 1;  // a foreign row in front and between
    for (const Piece& piece : pieces) {
      for (int32_t s = 0; s < piece.end; ++s) {
        for (int32_t i = 0; i < shape_.width(); ++i) {
          keys_.write(piece.sequence, s, i, number(1, piece.sequence, s, i));
          values_.write(piece.sequence, s, i, number(2, piece.sequence, s, i));
        }
      }
      spans.push_back({rows, piece.begin, piece.end, keys_.pages(piece.sequence)});
      rows += piece.end - piece.begin + 1;
    }
    const int64_t row_size = int64_t{shape_.heads} * shape_.head_dim;
    std::vector<float> q(static_cast<size_t>(rows * row_size), std::numeric_limits<float>::quiet_NaN());
    for (const SequenceSpan& span : spans) {
      const Piece& piece = pieces[static_cast<size_t>(&span - spans.data())];
      for (int32_t t = piece.begin; t < piece.end; ++t)
        for (int64_t i = 0; i < row_size; ++i)
          q[static_cast<size_t>((span.row_begin + t - piece.begin) * row_size + i)] = number(3, piece.sequence, t, i);
    }
    Guarded<float> out(rows * row_size);
    TestContext context(threads);
    const GroupedAttentionArgs args{.q = q.data(),
                                    .out = out.data(),
                                    .sequences = spans,
                                    .keys = keys_.cache(),
                                    .values = values_.cache(),
                                    .heads = shape_.heads,
                                    .kv_heads = shape_.kv_heads,
                                    .head_dim = shape_.head_dim,
                                    .scale = scale()};
    (prompt ? backend.grouped_attention_prompt : backend.grouped_attention_generated)(args, context);
    EXPECT_TRUE(out.guards_intact());
    EXPECT_TRUE(out.untouched(0, row_size));
    std::vector<float> answers;
    for (const SequenceSpan& span : spans) {
      const int64_t begin = span.row_begin * row_size;
      const int64_t end = begin + (span.position_end - span.position_begin) * row_size;
      answers.insert(answers.end(), out.data() + begin, out.data() + end);
      EXPECT_TRUE(out.untouched(end, end + row_size));
    }
    return answers;
  }

  // Scores of deviation 2: some keys count, none alone.
  float scale() const { return 2 / std::sqrt(static_cast<float>(shape_.head_dim)); }

  // Absolute, of one output whose row sees `length` positions. Values are at most sqrt(3) and so is their mix. A score
  // is a chain of head_dim products of up to 3, each sum rounded, and it is wrong by half an ulp of 3 head_dim * scale
  // per term at most; a weight by as much, relatively, twice (its own and the sum's), and by exp's two ulp; the mix
  // adds a rounding per position and one for each merge and division.
  double allowed(int32_t length) const {
    const double score = (shape_.head_dim + 2) * kUnit * 3 * shape_.head_dim * double{scale()};
    return std::sqrt(3.0) * (2 * score + (2 * length + 16) * kUnit);
  }

 private:
  float number(uint64_t what, int32_t sequence, int32_t position, int64_t i) const {
    return value_at(100 * what + static_cast<uint64_t>(sequence), position * int64_t{100000} + i);
  }

  Heads shape_;
  PagedPool keys_, values_;
};

std::vector<Piece> whole_sequences() {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < kLengths.size(); ++i) pieces.push_back({static_cast<int32_t>(i), 0, kLengths[i]});
  return pieces;
}

TEST_P(GroupedAttentionTest, BothFormsAgreeWithTheOracle) {
  for (const Heads& shape : kShapes) {
    const std::vector<Piece> pieces = whole_sequences();
    static std::map<std::string, std::vector<float>> answers;  // the oracle's are slow to come by
    std::vector<float>& want = answers[shape.text()];
    if (want.empty()) want = World(shape).attend(oracle(), pieces, true, 1);
    std::vector<int32_t> lengths;  // that each row sees
    for (const Piece& piece : pieces)
      for (int32_t t = 0; t < piece.end; ++t) lengths.push_back(t + 1);
    const int64_t row_size = int64_t{shape.heads} * shape.head_dim;
    World world(shape);
    for (bool prompt : {true, false})
      expect_close(
          world.attend(backend(), pieces, prompt, 2), want, row_size, 4e-6,
          [&](size_t i) { return world.allowed(lengths[i / static_cast<size_t>(row_size)]); },
          fmt::format("{} {}", shape.text(), prompt ? "prompt" : "generated"));
  }
}

// A row's bits depend on its position alone: not on the rows beside it, the chunk, the threads or the instruction set.
TEST_P(GroupedAttentionTest, SameBitsWhateverTheBatch) {
  for (const Heads& shape : kShapes) {
    for (bool prompt : {true, false}) {
      const std::vector<Piece> pieces = whole_sequences();
      const std::vector<float> want = World(shape).attend(*product_backends()[0], pieces, prompt, 1);
      const int64_t row_size = int64_t{shape.heads} * shape.head_dim;
      expect_same_bits(World(shape).attend(backend(), pieces, prompt, 3), want, row_size, shape.text());
      std::vector<float> got;
      for (const Piece& piece : pieces) {
        for (int32_t begin = 0; begin < piece.end; begin += 97) {
          const Piece part{piece.sequence, begin, std::min(piece.end, begin + 97)};
          const std::vector<float> rows = World(shape).attend(backend(), {part}, prompt, 2);
          got.insert(got.end(), rows.begin(), rows.end());
        }
      }
      expect_same_bits(got, want, row_size, shape.text() + " in chunks");
    }
  }
}

TEST_P(GroupedAttentionTest, WritesWhatTheOracleWrites) {
  for (const Heads& shape : kShapes) {
    const std::vector<float> k = random_values(int64_t{100} * shape.width(), 1);
    const std::vector<float> v = random_values(int64_t{100} * shape.width(), 2);
    const auto run = [&](const Backend& with, int threads) {
      PagedPool keys({70, 130}, shape.width(), shape.dtype), values({70, 130}, shape.width(), shape.dtype);
      const std::vector<SequenceSpan> spans = {{3, 60, 70, keys.pages(0)}, {15, 63, 130, keys.pages(1)}};
      TestContext context(threads);
      with.key_value_write({.k = k.data(),
                            .v = v.data(),
                            .width = shape.width(),
                            .sequences = spans,
                            .keys = keys.cache(),
                            .values = values.cache()},
                           context);
      return std::pair(keys.bytes(), values.bytes());
    };
    EXPECT_EQ(run(backend(), 2), run(oracle(), 1)) << shape.text();
  }
}

// Every head scores the means of its own group.
TEST_P(GroupedAttentionTest, ChoosesThePagesThatTheOracleChooses) {
  constexpr int32_t kBudget = 6, kPages = 90, kRows = 40;
  for (const Heads& shape : kShapes) {
    const int64_t page_bytes = shape.width() * size_of(shape.dtype);
    std::vector<std::byte> bytes(static_cast<size_t>(2 * kPages * page_bytes), std::byte{0xFF});
    std::vector<PageId> pages;
    for (int32_t id : shuffled(kPages, 5)) pages.push_back(PageId{id});
    const LatentCache means{bytes.data() + page_bytes, 2 * page_bytes, shape.dtype};
    const int32_t begin =
        (kPages - 1) * kPageTokens - kRows + 3;  // rows in two pages, the last one's own without a mean
    for (int32_t page = 0; page + 1 < kPages; ++page) {
      std::byte* at = means.base + value(pages[static_cast<size_t>(page)]) * means.page_stride;
      for (int32_t i = 0; i < shape.width(); ++i) {
        const float number = value_at(7, int64_t{page} * shape.width() + i);
        if (shape.dtype == DType::kF32) {
          reinterpret_cast<float*>(at)[i] = number;
        } else {
          reinterpret_cast<uint16_t*>(at)[i] = f32_to_bf16(number);
        }
      }
    }
    // Of the cache's type, and scaled by a power of two: what is rounded to it is what the oracle sees.
    std::vector<float> q = random_values(int64_t{kRows} * shape.heads * shape.head_dim, 8);
    for (float& number : q) number = bf16_to_f32(f32_to_bf16(number));
    const std::vector<SequenceSpan> spans = {{0, begin, begin + kRows, pages.data()}};
    const auto select = [&](const Backend& with, int threads) {
      Guarded<int32_t> chosen(kRows * kBudget);
      TestContext context(threads);
      with.block_select({.q = q.data(),
                         .sequences = spans,
                         .means = means,
                         .heads = shape.heads,
                         .rope_dim = shape.head_dim,
                         .groups = shape.kv_heads,
                         .num_pages = kBudget,
                         .sink_pages = 1,
                         .window_pages = 2,
                         .scale = 0.5f,
                         .pages = chosen.data()},
                        context);
      EXPECT_TRUE(chosen.guards_intact());
      return std::vector<int32_t>(chosen.values().begin(), chosen.values().end());
    };
    EXPECT_EQ(select(backend(), 2), select(oracle(), 1)) << shape.text();
  }
}

}  // namespace
}  // namespace sluice
