// Both forms of latent attention against the oracle (sums in double), and against each other.
#include <algorithm>
#include <string>
#include <vector>

#include "tests/kernels/latent_case.h"

namespace sluice {
namespace {

// Every score and value goes through chains of n roundings of partial sums of about unit size (latent_case.h), whose
// errors are independent: about sqrt(n) u together. The scores' chains are the latent (key or absorbed query) and q_dim
// resp. the entry width; the values' are the tile, the tiles and the latent. exp adds 3 u, the quotient 1 u.
//
// Over a bf16 cache the query, the key (or absorbed query), the probability and the value are rounded to 8 bits: each
// is off by 2^-8 of its power of two at most, uniformly, which is 0.41 * 2^-8 of itself in the mean square. The scores
// (deviation 1) take two such errors, which reach the probabilities as they are; with the probability's own and the
// value's that is sqrt(4) * 0.41 * 2^-8.
//
// Over an int8 cache, whose entries both sides read alike: the expanded form rounds entries to bf16 first, which scores
// and values take (six such errors). The absorbed form has the query in codes: of 128 normal values the largest is 2.8
// deviations and 127 steps, a code off by 1 / sqrt(12) of one in the mean square. Weights have 255 steps up to the
// largest of 64, which with scores of deviation 1 is e^2.4, beside e^1 in the mean square.
const double kRoundedEntries = std::sqrt(6.0) * 0.41 * 0x1p-8;
constexpr double kQueryCodes = 2.8 / 127 / 3.46;
const double kWeightCodes = std::exp(2.4 - 1.0) / 255 / 3.46;

double rounding(const AttentionShape& s, int32_t context) {
  const double f32 =
      kUnit * (std::sqrt(2.0 * s.kv_lora_rank + s.q_dim() + s.width() + kPageTokens + context / kPageTokens) + 4);
  if (s.cache == DType::kI8) return f32 + std::hypot(kRoundedEntries, kQueryCodes, kWeightCodes);
  return s.cache == DType::kBF16 ? f32 + 2 * 0.41 * 0x1p-8 : f32;
}

// Roundings are uniform (0.58 u) and partial sums mostly smaller than the whole, so one deviation of the error is below
// half of rounding(); the largest of some 10^5 elements stays below 5 deviations. Outputs have deviation 1 at most.
constexpr double kElement = 4;

void expect_attention(const LatentCase& world, const std::vector<float>& got, const std::vector<float>& want,
                      int32_t context_length, const std::string& what, double factor = 1) {
  const double bound = factor * rounding(world.shape(), context_length);
  // Outputs are means of many values, hence smaller, by up to sqrt(context); so are their errors, for the same reason.
  expect_close(
      got, want, world.shape().out_row(), bound, [&](size_t) { return kElement * bound; },
      world.shape().text() + " " + what);
}

// Quantised projections round their inputs, the query and the summed latents, to 127 steps of the largest of a group:
// of 128 normal values 2.8 deviations, so each is off by 2.8 / 127 / sqrt(12) of itself in the mean square.
constexpr double kInt8Rounding = 2.8 / 127 / 3.46 * 1.42;

class LatentAttentionTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(LatentAttentionTest);

constexpr AttentionShape kSmall{64, 16, 32, 32, 8};
constexpr AttentionShape kMini{256, 32, 64, 64, 16};
constexpr AttentionShape kLite{512, 64, 128, 128, 16};
constexpr AttentionShape kOddShapes[] = {
    {48, 6, 20, 24, 3}, {16, 2, 1, 1, 1}, {80, 16, 32, 40, 17}, {64, 16, 33, 7, 33}, {160, 10, 16, 16, 2},
};

AttentionShape with(AttentionShape shape, WeightFormat weights, DType cache) {
  shape.weights = weights;
  shape.cache = cache;
  return shape;
}

// The last rows of contexts of every interesting length: below, at and beyond a page, and several partitions.
void expect_oracle(const Backend& backend, const AttentionShape& shape, const std::vector<int32_t>& lengths,
                   int32_t rows_each) {
  LatentCase world(shape, lengths);
  std::vector<Piece> pieces;
  int32_t longest = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    pieces.push_back({static_cast<int32_t>(i), std::max(0, lengths[i] - rows_each), lengths[i]});
    longest = std::max(longest, lengths[i]);
  }
  TestContext context(2), single;
  const std::vector<float> expanded = world.attend(backend, Form::kExpanded, pieces, context);
  const std::vector<float> absorbed = world.attend(backend, Form::kAbsorbed, pieces, context);
  const std::string question = fmt::format("{}, the last {} of {}", shape.text(), rows_each, fmt::join(lengths, " "));
  const auto want = [&](const char* name, Form form) {
    return oracle_answer(name + question, [&] { return world.attend(oracle(), form, pieces, single); });
  };
  expect_attention(world, expanded, want("expanded ", Form::kExpanded), longest, "expanded");
  expect_attention(world, absorbed, want("absorbed ", Form::kAbsorbed), longest, "absorbed");
  expect_attention(world, expanded, absorbed, longest, "expanded against absorbed", std::sqrt(2.0));
}

TEST_P(LatentAttentionTest, SmallShapesAllLengths) {
  for (const auto& [weights, cache] : {std::pair{WeightFormat::kF32, DType::kF32},
                                       {WeightFormat::kBF16, DType::kF32},
                                       {WeightFormat::kBF16, DType::kBF16},
                                       {WeightFormat::kBF16, DType::kI8}})
    for (int32_t length : {1, 2, 63, 64, 65, 130, 600})
      expect_oracle(backend(), with(kSmall, weights, cache), {length}, 9);
}

TEST_P(LatentAttentionTest, QuantisedProjectionsOfTheAbsorbedForm) {
  for (AttentionShape shape : {kSmall, kMini}) {
    for (DType cache : {DType::kF32, DType::kBF16, DType::kI8}) {
      shape.weights = WeightFormat::kBF16;
      shape.cache = cache;
      shape.absorbed = WeightFormat::kInt8;
      LatentCase world(shape, {1, 130, 70});
      const std::vector<Piece> pieces = {{0, 0, 1}, {1, 122, 130}, {2, 69, 70}};
      TestContext context(2), single;
      const double bound = rounding(shape, 130) + kInt8Rounding;
      expect_close(
          world.attend(backend(), Form::kAbsorbed, pieces, context),
          world.attend(oracle(), Form::kAbsorbed, pieces, single), shape.out_row(), bound,
          [&](size_t) { return kElement * bound; }, shape.text());
    }
  }
}

TEST_P(LatentAttentionTest, OddShapes) {
  for (const AttentionShape& shape : kOddShapes)
    for (DType cache : {DType::kF32, DType::kBF16, DType::kI8})
      expect_oracle(backend(), with(shape, WeightFormat::kBF16, cache), {1, 65, 130, 600}, 7);
}

TEST_P(LatentAttentionTest, MiniAndLite) {
  expect_oracle(backend(), with(kMini, WeightFormat::kBF16, DType::kBF16), {63, 1, 130}, 4);
  AttentionShape few_heads = with(kMini, WeightFormat::kF32, DType::kF32);
  few_heads.heads = 3;
  expect_oracle(backend(), few_heads, {1100}, 1);  // three partitions
  expect_oracle(backend(), with(kLite, WeightFormat::kBF16, DType::kBF16), {70}, 3);
  expect_oracle(backend(), with(kLite, WeightFormat::kF32, DType::kF32), {5, 33}, 2);
  expect_oracle(backend(), with(kMini, WeightFormat::kBF16, DType::kI8), {63, 1, 130}, 4);
  expect_oracle(backend(), with(kLite, WeightFormat::kBF16, DType::kI8), {70}, 3);
  few_heads = with(kMini, WeightFormat::kBF16, DType::kI8);
  few_heads.heads = 3;
  expect_oracle(backend(), few_heads, {1100}, 1);  // three partitions
}

TEST_P(LatentAttentionTest, NoRowsAndEmptySpans) {
  LatentCase world(kSmall, {64, 70});
  TestContext context(2);
  for (Form form : {Form::kExpanded, Form::kAbsorbed}) {
    EXPECT_TRUE(world.attend(backend(), form, {}, context).empty());
    EXPECT_TRUE(world.attend(backend(), form, {{0, 64, 64}}, context).empty());
    const std::vector<float> alone = world.attend(backend(), form, {{1, 66, 70}}, context);
    expect_same_bits(world.attend(backend(), form, {{0, 20, 20}, {1, 66, 70}, {0, 0, 0}}, context), alone,
                     kSmall.out_row(), "beside empty spans");
  }
}

// By hand: one position attends only itself, so its output is V_h c whatever the query is.
TEST_P(LatentAttentionTest, TheFirstPositionIsItsOwnValue) {
  const AttentionShape shape = kSmall;
  LatentCase world(shape, {1});
  TestContext context;
  for (Form form : {Form::kExpanded, Form::kAbsorbed}) {
    const std::vector<float> out = world.attend(backend(), form, {{0, 0, 1}}, context);
    for (int32_t head = 0; head < shape.heads; ++head) {
      const std::vector<float> v_up =
          random_values(int64_t{shape.v_dim} * shape.kv_lora_rank, 2000 + static_cast<uint64_t>(head), 1.0 / 8);
      for (int32_t i = 0; i < shape.v_dim; ++i) {
        double want = 0, size = 0;
        for (int32_t j = 0; j < shape.kv_lora_rank; ++j) {
          const double term = double{v_up[static_cast<size_t>(i * shape.kv_lora_rank + j)]} * value_at(4000, j);
          want += term;
          size += std::abs(term);
        }
        // The worst case of a chain of 64 fmas, and the quotient.
        ASSERT_NEAR(out[static_cast<size_t>(head * shape.v_dim + i)], want, size * 66 * kUnit)
            << "head " << head << " dim " << i;
      }
    }
  }
}

// The same over an int8 cache: its one weight is 255 steps whole, so of the latent's codes nothing is lost but what the
// weight's scale, the sum's conversion and two products round.
TEST_P(LatentAttentionTest, TheFirstPositionOfAnInt8CacheIsItsOwnValue) {
  const AttentionShape shape = with(kSmall, WeightFormat::kF32, DType::kI8);
  LatentCase world(shape, {1});
  TestContext context;
  const std::vector<float> out = world.attend(backend(), Form::kAbsorbed, {{0, 0, 1}}, context);
  std::vector<float> latent = random_values(shape.kv_lora_rank, 4000);
  std::vector<int8_t> codes(latent.size());
  const float scale = quantize_activations(latent.data(), shape.kv_lora_rank, codes.data());
  for (int32_t head = 0; head < shape.heads; ++head) {
    const std::vector<float> v_up =
        random_values(int64_t{shape.v_dim} * shape.kv_lora_rank, 2000 + static_cast<uint64_t>(head), 1.0 / 8);
    for (int32_t i = 0; i < shape.v_dim; ++i) {
      double want = 0, size = 0;
      for (int32_t j = 0; j < shape.kv_lora_rank; ++j) {
        const double term = double{v_up[static_cast<size_t>(i * shape.kv_lora_rank + j)]} * scale * codes[static_cast<size_t>(j)];
        want += term;
        size += std::abs(term);
      }
      ASSERT_NEAR(out[static_cast<size_t>(head * shape.v_dim + i)], want, size * 71 * kUnit)
          << "head " << head << " dim " << i;
    }
  }
}

// A cache entry that is no number makes no answer, whatever its codes are.
TEST_P(LatentAttentionTest, ABrokenScaleShows) {
  const AttentionShape shape = with(kSmall, WeightFormat::kBF16, DType::kI8);
  const LatentCodes layout{shape.kv_lora_rank, shape.rope_dim};
  std::vector<float> z(static_cast<size_t>(shape.width()), 1.0f), norm(static_cast<size_t>(shape.kv_lora_rank), 1.0f);
  const std::vector<float> angles(static_cast<size_t>(shape.rope_dim), 0.5f);
  std::vector<std::byte> pool(static_cast<size_t>(kPageTokens * layout.entry_bytes()));
  const PageId page{0};
  const SequenceSpan span{0, 0, 1, &page};
  for (const float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    z.back() = broken;
    TestContext context;
    backend().latent_write({.z = z.data(),
                            .norm_weight = norm.data(),
                            .eps = 1e-6f,
                            .cos_sin = angles.data(),
                            .kv_lora_rank = shape.kv_lora_rank,
                            .rope_dim = shape.rope_dim,
                            .sequences = {&span, 1},
                            .cache = {pool.data(), static_cast<int64_t>(pool.size()), DType::kI8}},
                           context);
    const auto* scales = reinterpret_cast<const float*>(pool.data() + layout.scales_offset());
    EXPECT_TRUE(std::isnan(scales[kPageTokens])) << broken;
    EXPECT_FALSE(std::isnan(scales[0])) << "the latents are sound";
  }
}

}  // namespace
}  // namespace sluice
