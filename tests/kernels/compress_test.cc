// Compressed entries and window vectors against the oracle and against the formula itself in double; states across any
// cut into steps; the rule of same bits.
#include <string>
#include <vector>

#include "tests/kernels/hybrid_case.h"

namespace sluice {
namespace {

class CompressTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(CompressTest);

struct Compressor {
  int32_t ratio, series, dim, rope_dim;
  DType dtype = DType::kF32;

  std::string text() const {
    return fmt::format("ratio {} series {} dim {} rope {} {}", ratio, series, dim, rope_dim, name(dtype));
  }
};

constexpr float kEps = 1e-6f;
constexpr Compressor kCompressors[] = {{4, 2, 32, 8},
                                       {4, 2, 16, 16, DType::kBF16},
                                       {128, 1, 48, 8},
                                       {128, 1, 16, 2},
                                       {4, 1, 16, 4},
                                       {64, 1, 16, 4},
                                       {4, 2, 512, 64, DType::kBF16},
                                       {128, 1, 512, 64, DType::kBF16}};

// Projections are pure functions of (sequence, position).
class World {
 public:
  World(const Compressor& shape, const std::vector<int32_t>& lengths)
      : shape_(shape),
        lengths_(lengths),
        pool_(lengths, shape.dim, shape.ratio, shape.series, shape.dtype),
        ape_(random_values(int64_t{shape.ratio} * shape.series * shape.dim, 3, 0.7)),
        norm_(random_values(shape.dim, 4, 1)) {}

  float projection(int32_t sequence, int32_t t, int64_t index) const {
    return value_at(static_cast<uint64_t>(10 + sequence), t * width() + index, 1.5);
  }

  void run(const Backend& backend, const std::vector<Piece>& pieces, OpContext& context) {
    std::vector<SequenceSpan> spans;
    std::vector<float> z, cos_sin;
    const auto foreign_row = [&] {
      z.insert(z.end(), static_cast<size_t>(width()), std::numeric_limits<float>::quiet_NaN());
      cos_sin.insert(cos_sin.end(), static_cast<size_t>(shape_.rope_dim), std::numeric_limits<float>::quiet_NaN());
    };
    foreign_row();
    for (const Piece& piece : pieces) {
      spans.push_back({static_cast<int32_t>(static_cast<int64_t>(z.size()) / width()), piece.begin, piece.end,
                       pool_.pages(piece.sequence)});
      for (int32_t t = piece.begin; t < piece.end; ++t) {
        for (int64_t i = 0; i < width(); ++i) z.push_back(projection(piece.sequence, t, i));
        append_angles(t - t % shape_.ratio, shape_.rope_dim, cos_sin);
      }
      foreign_row();
    }
    backend.compress({.z = z.data(),
                      .ape = ape_.data(),
                      .norm_weight = norm_.data(),
                      .eps = kEps,
                      .cos_sin = cos_sin.data(),
                      .series = shape_.series,
                      .dim = shape_.dim,
                      .rope_dim = shape_.rope_dim,
                      .sequences = spans,
                      .cache = pool_.compressed(),
                      .state = pool_.states(),
                      .state_stride = pool_.page_bytes()},
                     context);
  }

  // The formula, with all of an entry's positions at once.
  std::vector<double> by_formula(int32_t sequence, int32_t entry) const {
    const int64_t columns = int64_t{shape_.series} * shape_.dim;
    std::vector<double> mixed;
    for (int32_t d = 0; d < shape_.dim; ++d) {
      std::vector<std::pair<double, double>> terms;  // gate, key
      const auto add = [&](int32_t t, int64_t column) {
        terms.emplace_back(double{projection(sequence, t, columns + column)} +
                               ape_[static_cast<size_t>(t % shape_.ratio * columns + column)],
                           projection(sequence, t, column));
      };
      const int32_t begin = shape_.ratio * entry;
      if (shape_.series == 2)
        for (int32_t t = begin - shape_.ratio; t < begin; ++t)
          if (t >= 0) add(t, d);
      for (int32_t t = begin; t < begin + shape_.ratio; ++t) add(t, shape_.series == 2 ? shape_.dim + d : d);
      double sum = 0, value = 0;
      for (const auto& [gate, key] : terms) {
        sum += std::exp(gate);
        value += std::exp(gate) * key;
      }
      mixed.push_back(value / sum);
    }
    double squares = 0;
    for (double v : mixed) squares += v * v;
    const double factor = 1 / std::sqrt(squares / shape_.dim + kEps);
    for (int32_t d = 0; d < shape_.dim; ++d) mixed[static_cast<size_t>(d)] *= factor * norm_[static_cast<size_t>(d)];
    std::vector<float> angles;
    append_angles(shape_.ratio * entry, shape_.rope_dim, angles);
    for (int32_t i = 0; i < shape_.rope_dim / 2; ++i) {
      double& a = mixed[static_cast<size_t>(shape_.dim - shape_.rope_dim + 2 * i)];
      double& b = *(&a + 1);
      const double c = angles[static_cast<size_t>(i)], s = angles[static_cast<size_t>(shape_.rope_dim / 2 + i)];
      a = std::exchange(b, b * c + a * s) * -s + a * c;
    }
    return mixed;
  }

  std::vector<float> entries(int32_t sequence) {
    std::vector<float> all;
    for (int32_t entry = 0; entry < lengths_[static_cast<size_t>(sequence)] / shape_.ratio; ++entry) {
      const std::vector<float> values = pool_.read_entry(sequence, entry);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  }
  HybridPool& pool() { return pool_; }

 private:
  int64_t width() const { return int64_t{2} * shape_.series * shape_.dim; }

  Compressor shape_;
  std::vector<int32_t> lengths_;
  HybridPool pool_;
  std::vector<float> ape_, norm_;
};

TEST_P(CompressTest, EntriesFollowTheFormula) {
  for (const Compressor& shape : kCompressors) {
    World world(shape, {300, 131});
    TestContext context(2);
    world.run(backend(), {{0, 0, 300}, {1, 0, 131}}, context);
    World other(shape, {300, 131});
    other.run(oracle(), {{0, 0, 300}, {1, 0, 131}}, context);
    // A running softmax of up to 128 positions: each step rounds sum and weighted sum, two exponentials of 3 u and of u
    // times the gates' spread; the norm divides by the root of the mean square, which mixing 128 values makes small.
    const double rounding = shape.dtype == DType::kBF16 ? 0x1p-8 : 0;
    const double bound = kUnit * (shape.ratio * shape.series * (4 + 6 + 8) + shape.dim);
    for (int32_t sequence : {0, 1}) {
      const std::vector<float> got = world.entries(sequence), want = other.entries(sequence);
      ASSERT_FALSE(got.empty());
      expect_close(
          got, want, shape.dim, bound + rounding,
          [&](size_t i) { return 8 * bound + 2 * rounding * std::abs(want[i]); }, shape.text());
      for (size_t entry = 0; entry < got.size() / static_cast<size_t>(shape.dim); ++entry) {
        const std::vector<double> formula = world.by_formula(sequence, static_cast<int32_t>(entry));
        for (size_t d = 0; d < formula.size(); ++d)
          ASSERT_NEAR(got[entry * formula.size() + d], formula[d], 8 * bound + rounding * std::abs(formula[d]))
              << shape.text() << " entry " << entry << " channel " << d;
      }
    }
  }
}

// Whatever the cut into steps, the neighbours, the threads and the instruction set: the same bytes, states too.
TEST_P(CompressTest, SameBytesHoweverThePositionsArrive) {
  for (const Compressor& shape : kCompressors) {
    TestContext single, team(3);
    World whole(shape, {300, 131});
    whole.run(*product_backends().front(), {{0, 0, 300}, {1, 0, 131}}, single);
    for (const std::vector<int32_t>& cuts :
         {std::vector<int32_t>{1, 2, 3, 5, 63, 64, 65, 127, 128, 129, 200, 256, 299}, {150}, {128, 192}}) {
      World pieces(shape, {300, 131});
      pieces.run(backend(), {{1, 0, 131}}, team);
      int32_t begin = 0;
      for (int32_t cut : cuts) {
        pieces.run(backend(), {{0, begin, cut}}, team);
        begin = cut;
      }
      pieces.run(backend(), {{0, begin, 300}, {1, 131, 131}}, single);
      EXPECT_TRUE(pieces.pool().bytes() == whole.pool().bytes()) << shape.text();
    }
    World one_by_one(shape, {300, 131});
    for (int32_t t = 0; t < 300; ++t) {
      std::vector<Piece> step = {{0, t, t + 1}};
      if (t < 131) step.push_back({1, t, t + 1});
      one_by_one.run(backend(), step, single);
    }
    EXPECT_TRUE(one_by_one.pool().bytes() == whole.pool().bytes()) << shape.text();
  }
}

TEST_P(CompressTest, StateOfAnotherPositionIsNoticed) {
  World world({4, 2, 16, 4}, {300});
  TestContext context;
  world.run(backend(), {{0, 0, 70}}, context);
  world.run(backend(), {}, context);
  EXPECT_DEATH(world.run(backend(), {{0, 68, 72}}, context), "state of position 70, wanted 68");
  world.run(backend(), {{0, 64, 71}}, context);  // from a page's border on it may be computed again
}

// The window's vector: norm over all dims, the last ones rotated by the position's angles.
TEST_P(CompressTest, WindowVectorsMatchTheOracle) {
  for (const Compressor& shape : kCompressors) {
    const std::vector<float> norm = random_values(shape.dim, 4);
    const auto run = [&](const Backend& on, const std::vector<Piece>& pieces, int threads) {
      HybridPool pool({100, 70}, shape.dim, shape.ratio, shape.series, shape.dtype);
      for (const Piece& piece : pieces) {
        std::vector<float> z, cos_sin;
        for (int32_t t = piece.begin; t < piece.end; ++t) {
          for (int32_t d = 0; d < shape.dim; ++d)
            z.push_back(value_at(static_cast<uint64_t>(piece.sequence), int64_t{t} * shape.dim + d));
          append_angles(t, shape.rope_dim, cos_sin);
        }
        const SequenceSpan span{0, piece.begin, piece.end, pool.pages(piece.sequence)};
        TestContext context(threads);
        on.window_write({.z = z.data(),
                         .norm_weight = norm.data(),
                         .eps = kEps,
                         .cos_sin = cos_sin.data(),
                         .dim = shape.dim,
                         .rope_dim = shape.rope_dim,
                         .sequences = {&span, 1},
                         .cache = pool.window()},
                        context);
      }
      return pool;
    };
    HybridPool got = run(backend(), {{0, 0, 100}, {1, 0, 70}}, 2), want = run(oracle(), {{0, 0, 100}, {1, 0, 70}}, 1);
    // The mean: dim / 16 + 4 roundings of squares; factor and two products 4; the rotation 3 more.
    const double bound = kUnit * (shape.dim / 16 + 11) + (shape.dtype == DType::kBF16 ? 0x1p-8 : 0);
    for (int32_t t : {0, 1, 63, 64, 99}) {
      const std::vector<float> a = got.read_window(0, t), b = want.read_window(0, t);
      expect_close(
          a, b, shape.dim, bound, [&](size_t i) { return bound * 2 * (std::abs(b[i]) + 1); }, shape.text());
    }
    const HybridPool cut = run(*product_backends().front(), {{1, 0, 70}, {0, 0, 1}, {0, 1, 99}, {0, 99, 100}}, 3);
    EXPECT_TRUE(cut.bytes() == got.bytes()) << shape.text();
  }
}

}  // namespace
}  // namespace sluice
