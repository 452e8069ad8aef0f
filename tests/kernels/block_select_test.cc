// Block attention's means and choice against the oracle and against the definition, and the rule of same bits.
// Everything that may not be read is NaN: the means of a row's own page and beyond, and, for the means, the entries of
// pages that are not full.
#include <string>
#include <vector>

#include "tests/kernels/sparse_case.h"

namespace sluice {
namespace {

class BlockMeansTest : public BackendTest {};
class BlockSelectTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(BlockMeansTest);
SLUICE_FOR_PRODUCT_BACKENDS(BlockSelectTest);

struct Blocks {
  int32_t kv_lora_rank, rope_dim, nope_dim, heads;
  int32_t num_pages, sink, window;
  DType dtype = DType::kF32;

  int32_t width() const { return kv_lora_rank + rope_dim; }
  std::string text() const {
    return fmt::format("latent {} rope {} nope {} heads {} pages {} sink {} window {} {}", kv_lora_rank, rope_dim,
                       nope_dim, heads, num_pages, sink, window, name(dtype));
  }
};

constexpr Blocks kShapes[] = {{64, 16, 32, 8, 6, 1, 2},
                              {48, 6, 20, 17, 5, 0, 1, DType::kBF16},
                              {16, 2, 1, 1, 3, 1, 1},
                              {80, 16, 33, 33, 70, 3, 4, DType::kBF16},
                              {512, 64, 128, 16, 40, 1, 4, DType::kBF16},
                              {32, 8, 16, 16, 4, 2, 2}};  // no page is chosen but by its place

// Means of pages, beside another layer's.
class MeansPool {
 public:
  MeansPool(int32_t num_pages, const Blocks& shape)
      : shape_(shape),
        page_bytes_(shape.width() * size_of(shape.dtype)),
        bytes_(static_cast<size_t>(2 * num_pages * page_bytes_), std::byte{0xFF}) {}
  LatentCache cache() { return {bytes_.data() + page_bytes_, 2 * page_bytes_, shape_.dtype}; }
  std::byte* page(int32_t id) { return bytes_.data() + page_bytes_ + id * 2 * page_bytes_; }
  const std::vector<std::byte>& bytes() const { return bytes_; }
  void write(int32_t id, int64_t index, float value) {
    if (shape_.dtype == DType::kF32) {
      reinterpret_cast<float*>(page(id))[index] = value;
    } else {
      reinterpret_cast<uint16_t*>(page(id))[index] = f32_to_bf16(value);
    }
  }
  float read(int32_t id, int64_t index) {
    return shape_.dtype == DType::kF32 ? reinterpret_cast<float*>(page(id))[index]
                                       : bf16_to_f32(reinterpret_cast<uint16_t*>(page(id))[index]);
  }

 private:
  Blocks shape_;
  int64_t page_bytes_;
  std::vector<std::byte> bytes_;
};

TEST_P(BlockMeansTest, SameBitsAsTheOracleAndNothingElseIsTouched) {
  for (const Blocks& shape : kShapes) {
    PagedPool entries({200, 130}, shape.width(), shape.dtype);
    for (int32_t sequence : {0, 1})
      for (int32_t s = 0; s < (sequence == 0 ? 200 : 130); ++s)
        for (int32_t d = 0; d < shape.width(); ++d)
          entries.write(sequence, s, d, value_at(5 + static_cast<uint64_t>(sequence), int64_t{s} * shape.width() + d));
    // Pages 1 and 2 of the first are filled by these rows, page 0 was before and page 3 is not full yet; of the second
    // none is, then page 1 by its last position alone.
    const auto run = [&](const Backend& backend, const std::vector<SequenceSpan>& spans, int threads) {
      MeansPool means(8, shape);
      TestContext context(threads);
      backend.block_means(
          {.sequences = spans, .cache = entries.cache(), .means = means.cache(), .width = shape.width()}, context);
      return means.bytes();
    };
    const std::vector<SequenceSpan> spans = {{0, 70, 199, entries.pages(0)}, {129, 64, 127, entries.pages(1)}};
    EXPECT_EQ(run(backend(), spans, 3), run(oracle(), spans, 1)) << shape.text();
    const std::vector<SequenceSpan> last = {{0, 127, 128, entries.pages(1)}};
    EXPECT_EQ(run(backend(), last, 1), run(oracle(), last, 1)) << shape.text();
    const std::vector<std::byte> got = run(backend(), spans, 1);
    const auto page_bytes = static_cast<int64_t>(got.size()) / 16;
    for (int32_t id = 0; id < 8; ++id) {
      const bool written = id == value(entries.pages(0)[1]) || id == value(entries.pages(0)[2]);
      const auto begin = got.begin() + (2 * id + 1) * page_bytes;
      EXPECT_EQ(std::all_of(begin, begin + page_bytes, [](std::byte b) { return b == std::byte{0xFF}; }), !written);
    }
  }
}

// By hand: a mean of whole numbers.
TEST_P(BlockMeansTest, IsTheMeanOfThePagesEntries) {
  PagedPool entries({64}, 2, DType::kF32);
  for (int32_t s = 0; s < 64; ++s) {
    entries.write(0, s, 0, static_cast<float>(s));
    entries.write(0, s, 1, s < 16 ? 4 : -4);
  }
  MeansPool means(2, {2, 0, 0, 1, 1, 0, 1});
  TestContext context(2);
  const std::vector<SequenceSpan> spans = {{0, 63, 64, entries.pages(0)}};
  backend().block_means({.sequences = spans, .cache = entries.cache(), .means = means.cache(), .width = 2}, context);
  EXPECT_EQ(means.read(value(entries.pages(0)[0]), 0), 31.5f);
  EXPECT_EQ(means.read(value(entries.pages(0)[0]), 1), -2.0f);
}

struct Piece {
  int32_t sequence, begin, end;
};

// Means and queries are pure functions of (sequence, page) and (sequence, position).
class World {
 public:
  World(const Blocks& shape, std::vector<int32_t> lengths) : shape_(shape), lengths_(std::move(lengths)) {
    int32_t num_pages = 1;
    for (int32_t length : lengths_) num_pages += (length + kPageTokens - 1) / kPageTokens;
    const std::vector<int32_t> order = shuffled(num_pages, 23);
    size_t next = 0;
    for (int32_t length : lengths_) {
      pages_.emplace_back();
      for (int32_t begin = 0; begin < length; begin += kPageTokens) pages_.back().push_back(PageId{order[next++]});
    }
    num_ids_ = num_pages;
  }

  float mean_at(int32_t sequence, int32_t page, int64_t i) const {
    const int64_t size = int64_t{shape_.width()};
    const float value = value_at(30 + static_cast<uint64_t>(sequence), page * size + i);
    return shape_.dtype == DType::kBF16 ? bf16_to_f32(f32_to_bf16(value)) : value;
  }
  // Of the cache's type: what is rounded to it is what the oracle sees. d < kv_lora_rank is the absorbed part.
  float query_at(int32_t sequence, int32_t t, int32_t head, int32_t d) const {
    const int64_t index = (int64_t{t} * shape_.heads + head) * shape_.width() + d;
    return bf16_to_f32(f32_to_bf16(value_at(40 + static_cast<uint64_t>(sequence), index)));
  }
  // A power of two, so that scaling rounds nothing: scores of deviation 2 to 4.
  float scale() const { return std::exp2(std::round(std::log2(3 / std::sqrt(static_cast<float>(shape_.width()))))); }

  std::vector<int32_t> select(const Backend& backend, const std::vector<Piece>& pieces, int threads) const {
    MeansPool means(num_ids_, shape_);
    std::vector<SequenceSpan> spans;
    int32_t batch_rows = 1;  // a foreign row in front and between
    int64_t count = 0;
    for (const Piece& piece : pieces) {
      spans.push_back({batch_rows, piece.begin, piece.end, pages_[static_cast<size_t>(piece.sequence)].data()});
      batch_rows += piece.end - piece.begin + 1;
      count += piece.end - piece.begin;
      for (int32_t page = 0; page < (piece.end - 1) / kPageTokens; ++page)
        for (int64_t i = 0; i < int64_t{shape_.width()}; ++i)
          means.write(value(spans.back().pages[page]), i, mean_at(piece.sequence, page, i));
    }
    const int64_t q_dim = shape_.nope_dim + shape_.rope_dim, rank = shape_.kv_lora_rank;
    std::vector<float> q(static_cast<size_t>(batch_rows * shape_.heads * q_dim),
                         std::numeric_limits<float>::quiet_NaN());
    std::vector<float> absorbed(static_cast<size_t>(shape_.heads * count * rank));
    int64_t i = 0;
    for (const Piece& piece : pieces) {
      const SequenceSpan& span = spans[static_cast<size_t>(&piece - pieces.data())];
      for (int32_t t = piece.begin; t < piece.end; ++t, ++i)
        for (int32_t head = 0; head < shape_.heads; ++head) {
          float* rope = q.data() + ((span.row_begin + t - piece.begin) * shape_.heads + head) * q_dim + shape_.nope_dim;
          for (int32_t d = 0; d < shape_.rope_dim; ++d)
            rope[d] = query_at(piece.sequence, t, head, shape_.kv_lora_rank + d);
          for (int32_t d = 0; d < rank; ++d)
            absorbed[static_cast<size_t>((head * count + i) * rank + d)] = query_at(piece.sequence, t, head, d);
        }
    }
    Guarded<int32_t> chosen(count * shape_.num_pages);
    TestContext context(threads);
    backend.block_select({.q = q.data(),
                          .absorbed = absorbed.data(),
                          .sequences = spans,
                          .means = means.cache(),
                          .heads = shape_.heads,
                          .nope_dim = shape_.nope_dim,
                          .rope_dim = shape_.rope_dim,
                          .kv_lora_rank = shape_.kv_lora_rank,
                          .num_pages = shape_.num_pages,
                          .sink_pages = shape_.sink,
                          .window_pages = shape_.window,
                          .scale = scale(),
                          .pages = chosen.data()},
                         context);
    EXPECT_TRUE(chosen.guards_intact()) << backend.name << " " << shape_.text();
    return {chosen.values().begin(), chosen.values().end()};
  }

  // The definition, in double.
  std::vector<double> masses(int32_t sequence, int32_t t) const {
    const int32_t own = t / kPageTokens;
    std::vector<double> mass(static_cast<size_t>(own), 0.0);
    for (int32_t head = 0; head < shape_.heads; ++head) {
      std::vector<double> weights;
      for (int32_t page = 0; page < own; ++page) {
        double score = 0;
        for (int32_t d = 0; d < shape_.width(); ++d)
          score += double{query_at(sequence, t, head, d)} * mean_at(sequence, page, d);
        weights.push_back(std::exp(score * scale()));
      }
      const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
      for (size_t m = 0; m < weights.size(); ++m) mass[m] += weights[m] / sum;
    }
    return mass;
  }

  // Ascending, sink and window whole, and nothing left out that has clearly more mass than something taken.
  void expect_best(std::span<const int32_t> chosen, int32_t sequence, int32_t t, const std::string& what) const {
    const int32_t own = t / kPageTokens, end = own - shape_.window + 1;
    const std::vector<double> mass = masses(sequence, t);
    std::vector<bool> taken(static_cast<size_t>(own) + 1, false);
    for (size_t j = 0; j < chosen.size(); ++j) {
      ASSERT_TRUE(chosen[j] >= 0 && chosen[j] <= own && (j == 0 || chosen[j] > chosen[j - 1]))
          << what << " place " << j;
      taken[static_cast<size_t>(chosen[j])] = true;
    }
    double least_taken = INFINITY, most_left = 0;
    for (int32_t page = 0; page <= own; ++page) {
      const bool forced = page < shape_.sink || page >= end;
      EXPECT_TRUE(!forced || taken[static_cast<size_t>(page)]) << what << " page " << page << " of " << own;
      if (forced) continue;
      double& bound = taken[static_cast<size_t>(page)] ? least_taken : most_left;
      bound = taken[static_cast<size_t>(page)] ? std::min(bound, mass[static_cast<size_t>(page)])
                                               : std::max(bound, mass[static_cast<size_t>(page)]);
    }
    // A score below 16 from a chain of `width` roundings of terms that add up to 16 sqrt(width) at most; exp; sums.
    const double error = kUnit * (16 * std::sqrt(shape_.width()) + 16) * 2;
    EXPECT_GE(least_taken, most_left * (1 - error)) << what << fmt::format(" row {} of sequence {}", t, sequence);
  }

 private:
  Blocks shape_;
  std::vector<int32_t> lengths_;
  std::vector<std::vector<PageId>> pages_;
  int32_t num_ids_;
};

int32_t first_row(const Blocks& shape) { return shape.num_pages * kPageTokens; }

TEST_P(BlockSelectTest, ChoosesByTheDefinition) {
  for (const Blocks& shape : kShapes) {
    const int32_t first = first_row(shape), length = first + 70 * kPageTokens;  // up to 2 partitions more
    const World world(shape, {length, first + 200});
    const std::vector<Piece> pieces = {
        {0, length - 2, length}, {1, first, first + 2}, {0, first + 127, first + 129}, {1, first + 5, first + 5}};
    for (const Backend* one : {&backend(), &oracle()}) {
      const std::vector<int32_t> chosen = world.select(*one, pieces, 2);
      size_t row = 0;
      for (const Piece& piece : pieces)
        for (int32_t t = piece.begin; t < piece.end; ++t, ++row)
          world.expect_best(std::span(chosen).subspan(row * static_cast<size_t>(shape.num_pages),
                                                      static_cast<size_t>(shape.num_pages)),
                            piece.sequence, t, fmt::format("{} {}", one->name, shape.text()));
    }
  }
}

TEST_P(BlockSelectTest, SameChoiceInAnyBatchTeamAndInstructionSet) {
  for (const Blocks& shape : kShapes) {
    const int32_t first = first_row(shape), begin = first + 66 * kPageTokens;
    const World world(shape, {begin + 20, begin + 20});
    const auto count = static_cast<size_t>(shape.num_pages);
    const std::vector<int32_t> whole = world.select(*product_backends().front(), {{0, begin, begin + 20}}, 1);
    const auto part = [&](size_t from, size_t to) {
      return std::vector<int32_t>(whole.begin() + static_cast<std::ptrdiff_t>(from * count),
                                  whole.begin() + static_cast<std::ptrdiff_t>(to * count));
    };
    EXPECT_EQ(world.select(backend(), {{0, begin, begin + 20}}, 3), whole) << shape.text();
    EXPECT_EQ(world.select(backend(), {{0, begin + 19, begin + 20}}, 1), part(19, 20)) << shape.text();
    std::vector<int32_t> mixed = world.select(backend(), {{1, first, first + 3}, {0, begin + 4, begin + 6}}, 2);
    mixed.erase(mixed.begin(), mixed.begin() + static_cast<std::ptrdiff_t>(3 * count));
    EXPECT_EQ(mixed, part(4, 6)) << shape.text();
  }
}

// By hand: one head, whose query meets means of one value each.
TEST_P(BlockSelectTest, TakesTheHighestMeansAndOfEqualOnesTheLower) {
  const Blocks shape{16, 2, 1, 1, 5, 1, 1};
  const float values[] = {9, 1, 3, 2, 3, 0, 3, -1, 8};  // of pages 0 to 8; 0 is the sink, 9 the window
  MeansPool means(10, shape);
  std::vector<PageId> pages;
  for (int32_t page = 0; page < 10; ++page) pages.push_back(PageId{9 - page});
  for (int32_t page = 0; page < 9; ++page)
    for (int64_t d = 0; d < shape.width(); ++d) means.write(9 - page, d, d == 3 ? values[page] : 0);
  const std::vector<float> q(3, 1), absorbed(16, 1);
  const std::vector<SequenceSpan> spans = {{0, 9 * 64, 9 * 64 + 1, pages.data()}};
  for (const Backend* one : {&backend(), &oracle()}) {
    Guarded<int32_t> chosen(5);
    TestContext context(2);
    one->block_select({.q = q.data(),
                       .absorbed = absorbed.data(),
                       .sequences = spans,
                       .means = means.cache(),
                       .heads = 1,
                       .nope_dim = 1,
                       .rope_dim = 2,
                       .kv_lora_rank = 16,
                       .num_pages = 5,
                       .sink_pages = 1,
                       .window_pages = 1,
                       .scale = 1,
                       .pages = chosen.data()},
                      context);
    EXPECT_EQ(std::vector<int32_t>(chosen.values().begin(), chosen.values().end()),
              (std::vector<int32_t>{0, 2, 4, 8, 9}))
        << one->name;
  }
}

TEST_P(BlockSelectTest, NoRows) {
  const World world(kShapes[0], {1000});
  EXPECT_TRUE(world.select(backend(), {}, 2).empty());
}

}  // namespace
}  // namespace sluice
