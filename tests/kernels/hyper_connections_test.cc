// Hyper-connections against numbers from the architecture's description, the oracle, and the rule of same bits.
#include <string>
#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {
namespace {

class HyperConnectionsTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(HyperConnectionsTest);

struct Weights {
  std::vector<float> pre, post, mix;
};

Weights weigh(const Backend& backend, int32_t n, int32_t iterations, float eps, int64_t rows,
              const std::vector<float>& logits, const std::vector<float>& scale, const std::vector<float>& base,
              OpContext& context) {
  Guarded<float> pre(rows * n), post(rows * n), mix(rows * n * n);
  backend.hyper_weights({.logits = logits.data(),
                         .scale = scale.data(),
                         .base = base.data(),
                         .rows = rows,
                         .streams = n,
                         .iterations = iterations,
                         .eps = eps,
                         .pre = pre.data(),
                         .post = post.data(),
                         .mix = mix.data()},
                        context);
  EXPECT_TRUE(pre.guards_intact() && post.guards_intact() && mix.guards_intact()) << backend.name;
  const auto copy = [](const Guarded<float>& from) {
    return std::vector<float>(from.values().begin(), from.values().end());
  };
  return {copy(pre), copy(post), copy(mix)};
}

// Two streams; want from a program in double precision that is not ours.
TEST_P(HyperConnectionsTest, WeightsOfTwoStreamsByHand) {
  const std::vector<float> logits = {0.5f, -1, 0.25f, 2, 1, 0, -1, 0.5f}, scale = {1, 0.5f, 2};
  const std::vector<float> base = {0.1f, -0.2f, 0, 0.3f, 0, 0.1f, 0.2f, -0.1f};
  const struct {
    int32_t iterations;
    double mix[4];
  } cases[] = {{1, {0.9324927385, 0.1219237436, 0.0675061896, 0.8780753193}},
               {2, {0.9253032869, 0.1107325451, 0.0746956668, 0.8892664973}},
               {20, {0.9088880306, 0.0911365401, 0.0911109694, 0.9088624599}}};
  const double pre[] = {0.6456573062, 0.2314762165}, post[] = {1.0624187467, 1.5716699661};
  TestContext context;
  for (const Backend* on : {&backend(), &oracle()}) {
    for (const auto& c : cases) {
      const Weights got = weigh(*on, 2, c.iterations, 1e-6f, 1, logits, scale, base, context);
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_NEAR(got.pre[i], pre[i], 3e-7) << on->name;
        EXPECT_NEAR(got.post[i], post[i], 6e-7) << on->name;
      }
      for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(got.mix[i], c.mix[i], 1e-6) << on->name << " " << c.iterations;
    }
  }
}

// A balanced matrix forgets the errors of earlier steps: what is left is that of the first exponentials (3 u, and u
// times their arguments' spread), spread over the matrix by the balancing (each of n entries of a row and column), and
// the last two divisions' sums. Sigmoids: exp, sum, quotient, and the argument's two roundings.
TEST_P(HyperConnectionsTest, WeightsMatchTheOracle) {
  const float eps = 1e-6f;
  for (int32_t n : {1, 2, 3, 4, 7, 16}) {
    for (int32_t iterations : {1, 3, 20}) {
      const int64_t rows = 9, width = n * (n + 2);
      const std::vector<float> logits = random_values(rows * width, 1, 2), scale = {0.7f, -1.3f, 1.1f};
      const std::vector<float> base = random_values(width, 2, 0.5);
      TestContext context(2);
      const Weights got = weigh(backend(), n, iterations, eps, rows, logits, scale, base, context);
      const Weights want = weigh(oracle(), n, iterations, eps, rows, logits, scale, base, context);
      const std::string what = fmt::format("n {} iterations {}", n, iterations);
      const double spread = 8;
      const double sigmoid = kUnit * (3 + 2 * spread + 4), mix = kUnit * (2 * n * (3 + 2 * spread) + 2 * n + 8);
      const auto near = [&](const std::vector<float>& a, const std::vector<float>& b, double bound) {
        expect_close(
            a, b, n, bound, [&](size_t i) { return bound * std::abs(b[i]) + bound * 1e-3; }, what);
      };
      near(got.pre, want.pre, sigmoid);
      near(got.post, want.post, sigmoid);
      near(got.mix, want.mix, mix);
      if (iterations < 20) continue;
      for (int64_t row = 0; row < rows; ++row)
        for (int32_t k = 0; k < n; ++k) {
          double column = 0;
          for (int32_t j = 0; j < n; ++j) column += got.mix[static_cast<size_t>((row * n + j) * n + k)];
          EXPECT_NEAR(column, 1, 1e-5) << what;
        }
    }
  }
}

TEST_P(HyperConnectionsTest, TheHeadHasPreAlone) {
  const int32_t n = 4;
  const std::vector<float> logits = random_values(5 * n, 1, 2), scale = {0.6f}, base = random_values(n, 2);
  TestContext context;
  const auto run = [&](const Backend& on) {
    Guarded<float> pre(5 * n);
    on.hyper_weights({.logits = logits.data(),
                      .scale = scale.data(),
                      .base = base.data(),
                      .rows = 5,
                      .streams = n,
                      .iterations = 20,
                      .eps = 1e-2f,
                      .pre = pre.data()},
                     context);
    EXPECT_TRUE(pre.guards_intact());
    return std::vector<float>(pre.values().begin(), pre.values().end());
  };
  const std::vector<float> got = run(backend());
  for (size_t i = 0; i < got.size(); ++i) {
    const double z = double{logits[i]} * scale[0] + base[i % n];
    EXPECT_NEAR(got[i], 1 / (1 + std::exp(-z)) + 1e-2, 20 * kUnit);
  }
  expect_close(
      got, run(oracle()), n, 20 * kUnit, [](size_t) { return 20 * kUnit; }, "head");
}

// Sums of n terms in one chain of fmas: n u of the sum of magnitudes.
TEST_P(HyperConnectionsTest, StreamsGoInAndOut) {
  for (int32_t n : {1, 2, 4, 16}) {
    for (int64_t hidden : {1, 15, 16, 33, 200}) {
      const int64_t rows = 7;
      const std::vector<float> x = random_values(rows * n * hidden, 1), y = random_values(rows * hidden, 2);
      const std::vector<float> pre = random_values(rows * n, 3), post = random_values(rows * n, 4);
      const std::vector<float> mix = random_values(rows * n * n, 5);
      const auto run = [&](const Backend& on, int threads) {
        TestContext context(threads);
        Guarded<float> u(rows * hidden), streams(x);
        on.hyper_collapse(
            {.x = x.data(), .pre = pre.data(), .rows = rows, .hidden = hidden, .streams = n, .u = u.data()}, context);
        on.hyper_expand({.y = y.data(),
                         .post = post.data(),
                         .mix = mix.data(),
                         .rows = rows,
                         .hidden = hidden,
                         .streams = n,
                         .x = streams.data()},
                        context);
        EXPECT_TRUE(u.guards_intact() && streams.guards_intact());
        std::vector<float> both(u.values().begin(), u.values().end());
        both.insert(both.end(), streams.values().begin(), streams.values().end());
        return both;
      };
      const std::string what = fmt::format("n {} hidden {}", n, hidden);
      const std::vector<float> got = run(backend(), 1), want = run(oracle(), 1);
      const double bound = (n + 2) * kUnit;
      expect_close(
          got, want, hidden, 4 * bound, [&](size_t) { return bound * (n + 1) * 3; }, what);
      expect_same_bits(run(backend(), 3), got, hidden, what);
      expect_same_bits(run(*product_backends().front(), 2), got, hidden, what);
      // By hand, one value: the first index of mix is where the stream comes from.
      const int64_t row = 3, i = hidden - 1;
      double sum = double{post[row * n + n - 1]} * y[row * hidden + i];
      for (int32_t j = 0; j < n; ++j) sum += double{mix[(row * n + j) * n + n - 1]} * x[(row * n + j) * hidden + i];
      EXPECT_NEAR(got[static_cast<size_t>(rows * hidden + (row * n + n - 1) * hidden + i)], sum, bound * (n + 1) * 3);
    }
  }
}

TEST_P(HyperConnectionsTest, SameBitsForAnyTeamBatchAndInstructionSet) {
  const int32_t n = 4;
  const int64_t rows = 33, width = n * (n + 2);
  const std::vector<float> logits = random_values(rows * width, 1, 2), scale = {0.7f, 1.3f, 1.1f};
  const std::vector<float> base = random_values(width, 2, 0.5);
  TestContext single;
  const Weights want = weigh(*product_backends().front(), n, 20, 1e-6f, rows, logits, scale, base, single);
  for (int threads : {1, 3}) {
    TestContext context(threads);
    const Weights got = weigh(backend(), n, 20, 1e-6f, rows, logits, scale, base, context);
    expect_same_bits(got.pre, want.pre, n, "pre");
    expect_same_bits(got.post, want.post, n, "post");
    expect_same_bits(got.mix, want.mix, n * n, "mix");
  }
  const std::vector<float> last(logits.end() - width, logits.end());
  const Weights alone = weigh(backend(), n, 20, 1e-6f, 1, last, scale, base, single);
  expect_same_bits(alone.mix, std::span(want.mix).last(static_cast<size_t>(n * n)), n * n, "last row alone");
}

}  // namespace
}  // namespace sluice
