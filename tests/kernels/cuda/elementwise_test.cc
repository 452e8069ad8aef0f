// The row-wise CUDA kernels on the emulated grid against the oracle.
#include "kernels/cuda/elementwise/elementwise.h"

#include "kernels/ref/ref.h"
#include "tests/kernels/cuda/grid_case.h"

namespace sluice::cuda {
namespace {

// f32 roundings before the last one: a chain of 64 squares, 5 lane steps, 8 warps, halved by the root; root, quotient,
// two products, and the oracle's own.
constexpr double kNormError = kBf16Unit + 48 * kUnit;

void expect_bf16(const Guarded<bf16>& got, const std::vector<float>& want, int64_t cols, double relative,
                 double absolute, const std::string& what) {
  EXPECT_TRUE(got.guards_intact()) << what;
  expect_close(
      to_f32(got.values()), want, cols, relative + absolute,
      [&](size_t i) { return relative * std::abs(want[i]) + absolute; }, what);
}

struct NormCase {
  int32_t rows, cols, x_stride;
  bool residual, row_ids;
};

void check_rms_norm(const NormCase& c, uint64_t seed) {
  const std::string what = fmt::format("rows {} cols {} stride {} residual {} ids {} seed {}", c.rows, c.cols,
                                       c.x_stride, c.residual, c.row_ids, seed);
  grid::configure({.seed = seed});
  const int32_t sources = c.rows + 3;
  std::vector<bf16> x = random_bf16(int64_t{sources} * c.x_stride, seed, 2);
  const std::vector<float> weight = random_values(c.cols, seed + 10);
  std::vector<int32_t> ids = shuffled(sources, seed);
  const std::vector<bf16> old_residual = random_bf16(int64_t{c.rows} * c.cols, seed + 20);
  Guarded<bf16> residual(old_residual), y(int64_t{c.rows} * c.cols);
  rms_norm({.x = x.data(),
            .row_ids = c.row_ids ? ids.data() : nullptr,
            .residual = c.residual ? residual.data() : nullptr,
            .weight = weight.data(),
            .y = y.data(),
            .rows = c.rows,
            .cols = c.cols,
            .x_stride = c.x_stride,
            .eps = 1e-6f},
           nullptr);

  std::vector<float> input;  // [rows, cols], what is normalised
  for (int32_t row = 0; row < c.rows; ++row) {
    const auto source = static_cast<size_t>(c.row_ids ? ids[static_cast<size_t>(row)] : row);
    for (int32_t i = 0; i < c.cols; ++i) {
      float value = bf16_to_f32(x[source * static_cast<size_t>(c.x_stride) + static_cast<size_t>(i)].bits);
      if (c.residual) {
        value = bf16_to_f32(f32_to_bf16(bf16_to_f32(old_residual[input.size()].bits) + value));
        ASSERT_EQ(bf16_to_f32(residual[static_cast<int64_t>(input.size())].bits), value) << what;
      }
      input.push_back(value);
    }
  }
  EXPECT_TRUE(residual.guards_intact()) << what;
  std::vector<float> want(input.size());
  TestContext context;
  ref::rms_norm({.x = input.data(),
                 .weight = weight.data(),
                 .y = want.data(),
                 .rows = c.rows,
                 .cols = c.cols,
                 .x_stride = c.cols,
                 .eps = 1e-6f},
                context);
  expect_bf16(y, want, c.cols, kNormError, 0, what);
}

TEST(CudaElementwise, RmsNorm) {
  for (const uint64_t seed : kSeeds)
    for (const NormCase& c :
         {NormCase{0, 64, 64, false, false}, NormCase{1, 8, 8, false, false}, NormCase{5, 64, 80, true, true},
          NormCase{3, 264, 264, false, true}, NormCase{7, 2048, 2048, true, false},
          NormCase{2, 2056, 2064, false, false}, NormCase{2, 7168, 7168, true, false},
          NormCase{1, kMaxNormCols, kMaxNormCols, true, false}})
      check_rms_norm(c, seed);
}

TEST(CudaElementwiseDeathTest, WidthsAreChecked) {
  EXPECT_DEATH(rms_norm({.rows = 1, .cols = 12, .x_stride = 12}, nullptr),
               "expected params.cols % kVecBf16 == 0.*found 12");
  EXPECT_DEATH(rms_norm({.rows = 1, .cols = 16392, .x_stride = 16392}, nullptr), "kMaxNormCols; found 16392");
  EXPECT_DEATH(rope({.rows = 1, .head_dim = 16, .offset = 8, .dim = 16}, nullptr), "found 8 16 16");
  EXPECT_DEATH(silu_mul({.rows = 1, .width = 4}, nullptr), "found 4");
}

struct RopeCase {
  int32_t rows, heads, head_dim, offset, dim;
};

// Terms of either sign: a bound relative to the two products, not to their difference. |a c| + |b s| <= hypot(a, b),
// and the inputs are uniform below sqrt(3).
constexpr double kRotated = 2.4495;

TEST(CudaElementwise, Rope) {
  for (const uint64_t seed : kSeeds) {
    for (const RopeLayout layout : {RopeLayout::kPair, RopeLayout::kHalf}) {
      for (const RopeCase& c : {RopeCase{0, 4, 32, 0, 32}, RopeCase{1, 1, 16, 0, 16}, RopeCase{3, 5, 64, 32, 32},
                                RopeCase{4, 7, 192, 128, 64}, RopeCase{2, 3, 128, 0, 64}}) {
        const std::string what = fmt::format("rows {} heads {} dim {} of {} layout {} seed {}", c.rows, c.heads, c.dim,
                                             c.head_dim, static_cast<int>(layout), seed);
        grid::configure({.seed = seed});
        const std::vector<bf16> x = random_bf16(int64_t{c.rows} * c.heads * c.head_dim, seed);
        std::vector<float> want = to_f32(x), cos_sin;
        for (int32_t row = 0; row < c.rows; ++row)
          for (int32_t i = 0; i < c.dim; ++i) {
            const double angle = (row + 3) * (1 + i % (c.dim / 2));
            cos_sin.push_back(static_cast<float>(i < c.dim / 2 ? std::cos(angle) : std::sin(angle)));
          }
        Guarded<bf16> got(x);
        rope({.x = got.data(),
              .cos_sin = cos_sin.data(),
              .rows = c.rows,
              .heads = c.heads,
              .head_dim = c.head_dim,
              .offset = c.offset,
              .dim = c.dim,
              .layout = layout},
             nullptr);
        TestContext context;
        ref::rope({.x = want.data(),
                   .cos_sin = cos_sin.data(),
                   .rows = c.rows,
                   .heads = c.heads,
                   .head_dim = c.head_dim,
                   .offset = c.offset,
                   .dim = c.dim,
                   .layout = layout},
                  context);
        expect_bf16(got, want, c.head_dim, kBf16Unit, 4 * kUnit * kRotated, what);
        for (size_t i = 0; i < want.size(); ++i) {
          const auto dim = static_cast<int32_t>(i) % c.head_dim;
          if (dim < c.offset || dim >= c.offset + c.dim) {
            ASSERT_EQ(got[static_cast<int64_t>(i)].bits, x[i].bits) << what << " dim " << dim;
          }
        }

        // Into other rows: the same bits at their place, nothing else.
        const int32_t y_head_dim = c.dim + 24, y_offset = 16;
        Guarded<bf16> source(x), y(int64_t{c.rows} * c.heads * y_head_dim);
        rope({.x = source.data(),
              .y = y.data(),
              .cos_sin = cos_sin.data(),
              .rows = c.rows,
              .heads = c.heads,
              .head_dim = c.head_dim,
              .offset = c.offset,
              .dim = c.dim,
              .y_head_dim = y_head_dim,
              .y_offset = y_offset,
              .layout = layout},
             nullptr);
        EXPECT_TRUE(y.guards_intact() && source.guards_intact()) << what;
        for (int64_t head = 0; head < int64_t{c.rows} * c.heads; ++head) {
          EXPECT_TRUE(y.untouched(head * y_head_dim, head * y_head_dim + y_offset)) << what;
          for (int32_t i = 0; i < c.dim; ++i)
            ASSERT_EQ(y[head * y_head_dim + y_offset + i].bits, got[head * c.head_dim + c.offset + i].bits) << what;
          EXPECT_TRUE(y.untouched(head * y_head_dim + y_offset + c.dim, (head + 1) * y_head_dim)) << what;
        }
      }
    }
  }
}

struct LatentWriteCase {
  int32_t rank, rope_dim;
  std::vector<int32_t> slots;  // -1: a padding row
};

void check_latent_write(const LatentWriteCase& c, RopeLayout layout, uint64_t seed) {
  const std::string what =
      fmt::format("rank {} rope {} layout {} seed {}", c.rank, c.rope_dim, static_cast<int>(layout), seed);
  grid::configure({.seed = seed});
  const auto rows = static_cast<int32_t>(c.slots.size());
  const int32_t width = c.rank + c.rope_dim, z_stride = width + 24;
  const int64_t page_stride = int64_t{kPageTokens} * width + 64;  // another layer's entries follow
  constexpr int32_t kPages = 3;
  const std::vector<bf16> z = random_bf16(int64_t{rows} * z_stride, seed);
  const std::vector<float> weight = random_values(c.rank, seed + 1),
                           cos_sin = random_values(rows * c.rope_dim, seed + 2, 0.5);
  std::vector<int64_t> slots(c.slots.begin(), c.slots.end());
  Guarded<bf16> cache(kPages * page_stride);
  latent_write({.z = z.data(),
                .norm_weight = weight.data(),
                .cos_sin = cos_sin.data(),
                .slots = slots.data(),
                .cache = cache.data(),
                .page_stride = page_stride,
                .rows = rows,
                .z_stride = z_stride,
                .kv_lora_rank = c.rank,
                .rope_dim = c.rope_dim,
                .eps = 1e-6f,
                .layout = layout},
               nullptr);
  EXPECT_TRUE(cache.guards_intact()) << what;

  TestContext context;
  std::vector<bool> written(static_cast<size_t>(cache.size()), false);
  for (int32_t row = 0; row < rows; ++row) {
    if (c.slots[static_cast<size_t>(row)] < 0) continue;
    const std::vector<float> zf =
        to_f32(std::span(z).subspan(static_cast<size_t>(row * z_stride), static_cast<size_t>(width)));
    std::vector<float> want(static_cast<size_t>(width)), got;
    ref::rms_norm({.x = zf.data(),
                   .weight = weight.data(),
                   .y = want.data(),
                   .rows = 1,
                   .cols = c.rank,
                   .x_stride = width,
                   .eps = 1e-6f},
                  context);
    std::copy(zf.begin() + c.rank, zf.end(), want.begin() + c.rank);
    ref::rope({.x = want.data() + c.rank,
               .cos_sin = cos_sin.data() + row * c.rope_dim,
               .rows = 1,
               .head_dim = c.rope_dim,
               .dim = c.rope_dim,
               .layout = layout},
              context);
    const int32_t slot = c.slots[static_cast<size_t>(row)];
    const int64_t entry = slot / kPageTokens * page_stride + slot % kPageTokens * width;
    for (int64_t i = 0; i < width; ++i) {
      got.push_back(bf16_to_f32(cache[entry + i].bits));
      written[static_cast<size_t>(entry + i)] = true;
    }
    // The sines and cosines reach sqrt(3) / 2.
    expect_close(
        got, want, width, kNormError, [&](size_t i) { return kNormError * std::abs(want[i]) + 4 * kUnit * kRotated; },
        what);
  }
  for (int64_t i = 0; i < cache.size(); ++i)
    if (!written[static_cast<size_t>(i)]) {
      ASSERT_EQ(cache[i].bits, 0xFFFF) << what << ": wrote value " << i;
    }
}

TEST(CudaElementwise, LatentWrite) {
  for (const uint64_t seed : kSeeds)
    for (const RopeLayout layout : {RopeLayout::kPair, RopeLayout::kHalf})
      for (const LatentWriteCase& c :
           {LatentWriteCase{64, 16, {0}}, LatentWriteCase{64, 16, {}}, LatentWriteCase{256, 32, {63, -1, 64, 190}},
            LatentWriteCase{512, 64, {128, 5, -1, 191, 64}}, LatentWriteCase{kMaxLatent, 64, {1, 65}}})
        check_latent_write(c, layout, seed);
}

// exp and quotient: 2 units of the last place each in CUDA's own, one rounding each for sum and products.
constexpr double kSiluError = kBf16Unit + 8 * kUnit;

TEST(CudaElementwise, SiluMul) {
  for (const uint64_t seed : kSeeds) {
    for (const auto& [rows, width, limit] :
         {std::tuple{0, 64, 0.0f}, {1, 8, 0.0f}, {3, 1408, 2.0f}, {9, 72, 0.0f}, {2, 2048, 10.0f}}) {
      grid::configure({.seed = seed});
      std::vector<bf16> gate_up = random_bf16(int64_t{rows} * 2 * width, seed, 3);
      if (rows > 2) gate_up[0] = {f32_to_bf16(-100.0f)};  // exp overflows: the product is -0
      Guarded<bf16> y(int64_t{rows} * width);
      silu_mul({.gate_up = gate_up.data(), .y = y.data(), .rows = rows, .width = width, .limit = limit}, nullptr);
      const std::vector<float> input = to_f32(gate_up);
      std::vector<float> want(static_cast<size_t>(rows * width));
      TestContext context;
      ref::silu_mul({.gate_up = input.data(), .y = want.data(), .rows = rows, .width = width, .limit = limit}, context);
      // Below the smallest normal f32 the kernel may give zero.
      expect_bf16(y, want, width, kSiluError, 1e-37, fmt::format("rows {} width {} seed {}", rows, width, seed));
    }
  }
}

TEST(CudaElementwise, GatherRows) {
  for (const uint64_t seed : kSeeds) {
    for (const auto& [rows, cols] : {std::pair{0, 64}, {1, 8}, {6, 2048}, {4, 1032}}) {
      grid::configure({.seed = seed});
      const std::vector<bf16> table = random_bf16(int64_t{7} * cols, seed);
      std::vector<int32_t> ids = shuffled(7, seed);
      Guarded<bf16> y(int64_t{rows} * cols);
      gather_rows({.table = table.data(), .ids = ids.data(), .y = y.data(), .rows = rows, .cols = cols}, nullptr);
      EXPECT_TRUE(y.guards_intact());
      for (int64_t i = 0; i < y.size(); ++i) {
        const int64_t source = ids[static_cast<size_t>(i / cols)] * int64_t{cols} + i % cols;
        ASSERT_EQ(y[i].bits, table[static_cast<size_t>(source)].bits) << rows << " x " << cols << " at " << i;
      }
    }
  }
}

// Out of a pool into a buffer, and back into other places of another pool.
TEST(CudaElementwise, PageCopy) {
  for (const uint64_t seed : kSeeds) {
    for (const auto& [pages, page_bytes] : {std::pair{0, 16}, {1, 16}, {3, 4096 + 48}, {2, 36 * 1024 + 16}}) {
      grid::configure({.seed = seed});
      constexpr int32_t kPool = 5;
      const int64_t stride = page_bytes + 32, words = stride / 4;
      const std::vector<float> pool = random_values(kPool * words, seed);
      const std::vector<int32_t> from = shuffled(kPool, seed), to = shuffled(kPool, seed + 1);
      Guarded<float> buffer(int64_t{pages} * page_bytes / 4), other(kPool * words);
      page_copy({.source = pool.data(),
                 .target = buffer.data(),
                 .from = from.data(),
                 .source_stride = stride,
                 .target_stride = page_bytes,
                 .page_bytes = page_bytes,
                 .pages = pages},
                nullptr);
      page_copy({.source = buffer.data(),
                 .target = other.data(),
                 .to = to.data(),
                 .source_stride = page_bytes,
                 .target_stride = stride,
                 .page_bytes = page_bytes,
                 .pages = pages},
                nullptr);
      EXPECT_TRUE(buffer.guards_intact() && other.guards_intact());
      for (int32_t i = 0; i < kPool; ++i) {
        const int64_t at = to[static_cast<size_t>(i)] * words, source = from[static_cast<size_t>(i)] * words;
        const int64_t copied = i < pages ? page_bytes / 4 : 0;
        for (int64_t w = 0; w < copied; ++w) ASSERT_EQ(other[at + w], pool[static_cast<size_t>(source + w)]);
        EXPECT_TRUE(other.untouched(at + copied, at + words)) << "page " << i << " of " << pages;
      }
    }
  }
}

}  // namespace
}  // namespace sluice::cuda
