// Cache entries: norm, rotation and rounding against the oracle; pages in any order, spans that start in mid-page, two
// layers in one page; every byte outside the written entries stays.
#include <string>
#include <vector>

#include "sluice/latent_codes.h"
#include "sluice/quantize.h"

#include "tests/kernels/kernel_test.h"

namespace sluice {
namespace {

struct Range {
  int32_t begin, end;
};

struct Problem {
  int32_t kv_lora_rank, rope_dim;
  std::vector<Range> ranges;  // positions, one sequence each
  DType dtype;
  RopeLayout layout = RopeLayout::kPair;

  int64_t width() const { return kv_lora_rank + rope_dim; }
  LatentCodes codes() const { return {kv_lora_rank, rope_dim}; }
  int64_t entry_bytes() const { return dtype == DType::kI8 ? codes().entry_bytes() : width() * size_of(dtype); }
  int64_t layer_bytes() const { return kPageTokens * entry_bytes(); }
  int64_t page_stride() const { return 3 * layer_bytes(); }  // ours is the middle one of three layers
  std::string text() const {
    return fmt::format("rank {} rope {} {} {} spans", kv_lora_rank, rope_dim, name(dtype), ranges.size());
  }
};

constexpr int32_t kPagesPerSequence = 4;

struct Written {
  std::vector<std::byte> pool;
  std::vector<float> entries;  // [rows, width], widened
};

constexpr std::byte kUntouched{0xA5};

// What an int8 entry says; puts the old bytes back into `rest`.
std::vector<float> take_codes(const Problem& p, const std::byte* layer, int64_t place, std::byte* rest) {
  std::vector<float> entry;
  for (int32_t g = 0; g < p.codes().num_groups(); ++g) {
    const int64_t scale_at = p.codes().scales_offset() + (g * kPageTokens + place) * 4;
    float scale;
    std::memcpy(&scale, layer + scale_at, sizeof(scale));
    std::fill_n(rest + scale_at, sizeof(scale), kUntouched);
    for (int64_t i = p.codes().begin(g); i < p.codes().begin(g + 1); ++i)
      entry.push_back(scale * static_cast<float>(std::to_integer<int>(layer[place * p.width() + i]) - 128));
  }
  std::fill_n(rest + place * p.width(), p.width(), kUntouched);
  return entry;
}

Written write(const Backend& backend, const Problem& p, OpContext& context) {
  const auto num_pages = static_cast<int32_t>(p.ranges.size()) * kPagesPerSequence;
  const std::vector<int32_t> order = shuffled(num_pages, 11);
  std::vector<PageId> pages;
  for (int32_t page : order) pages.push_back(PageId{page});
  std::vector<SequenceSpan> spans;
  int32_t rows = 2;  // the batch begins with rows of somebody else
  for (size_t i = 0; i < p.ranges.size(); ++i) {
    spans.push_back({rows, p.ranges[i].begin, p.ranges[i].end, pages.data() + i * kPagesPerSequence});
    rows += p.ranges[i].end - p.ranges[i].begin;
  }
  const std::vector<float> z = random_values(rows * p.width(), 1, 2), weight = random_values(p.kv_lora_rank, 2),
                           angle = random_values(rows * p.rope_dim, 3);
  Written result{.pool = std::vector<std::byte>(static_cast<size_t>(num_pages * p.page_stride()), std::byte{0xA5}),
                 .entries = {}};
  std::byte* layer = result.pool.data() + p.layer_bytes();
  backend.latent_write({.z = z.data(),
                        .norm_weight = weight.data(),
                        .eps = 1e-6f,
                        .cos_sin = angle.data(),
                        .layout = p.layout,
                        .kv_lora_rank = p.kv_lora_rank,
                        .rope_dim = p.rope_dim,
                        .sequences = spans,
                        .cache = {layer, p.page_stride(), p.dtype}},
                       context);
  // Take the entries out and put the old bytes back: then nothing may differ from the pool at the start.
  std::vector<std::byte> rest = result.pool;
  for (const SequenceSpan& span : spans) {
    for (int32_t position = span.position_begin; position < span.position_end; ++position) {
      const int64_t slice = p.layer_bytes() + value(span.pages[position / kPageTokens]) * p.page_stride();
      if (p.dtype == DType::kI8) {
        const std::vector<float> entry =
            take_codes(p, result.pool.data() + slice, position % kPageTokens, rest.data() + slice);
        result.entries.insert(result.entries.end(), entry.begin(), entry.end());
        continue;
      }
      const int64_t at = p.layer_bytes() + value(span.pages[position / kPageTokens]) * p.page_stride() +
                         position % kPageTokens * p.entry_bytes();
      std::vector<float> entry(static_cast<size_t>(p.width()));
      widen_to_f32({result.pool.data() + at, p.dtype, Shape{p.width()}}, 0, p.width(), entry.data());
      result.entries.insert(result.entries.end(), entry.begin(), entry.end());
      std::fill_n(rest.begin() + at, p.entry_bytes(), std::byte{0xA5});
    }
  }
  EXPECT_TRUE(std::all_of(rest.begin(), rest.end(), [](std::byte b) { return b == std::byte{0xA5}; }))
      << backend.name << " " << p.text() << " writes outside its entries";
  return result;
}

class LatentWriteTest : public BackendTest {};
SLUICE_FOR_PRODUCT_BACKENDS(LatentWriteTest);

std::vector<Problem> problems(DType dtype) {
  return {
      {64, 16, {}, dtype},
      {64, 16, {{5, 5}}, dtype},
      {64, 16, {{0, 1}}, dtype},
      {64, 16, {{63, 65}}, dtype, RopeLayout::kHalf},
      {512, 64, {{37, 130}, {0, 7}, {200, 256}}, dtype},
      {512, 64, {{129, 130}, {64, 65}, {255, 256}, {0, 1}}, dtype, RopeLayout::kHalf},
      {20, 6, {{60, 70}, {1, 13}}, dtype},
  };
}

TEST_P(LatentWriteTest, F32EntriesMatchTheOracle) {
  for (const Problem& p : problems(DType::kF32)) {
    TestContext context(2);
    const std::vector<float> want = write(oracle(), p, context).entries;
    // As RMSNorm (elementwise_test.cc); the rotation is the same arithmetic on both sides.
    const double bound = ((p.kv_lora_rank / 16.0 + 5) / 2 + 9) * kUnit;
    expect_close(
        write(backend(), p, context).entries, want, p.width(), bound,
        [&](size_t i) {
          const bool rotated = static_cast<int32_t>(i % static_cast<size_t>(p.width())) >= p.kv_lora_rank;
          return rotated ? 0.0 : bound * std::abs(want[i]);
        },
        p.text());
  }
}

// The bf16 entry is the rounding of the f32 entry, exactly.
TEST_P(LatentWriteTest, Bf16EntriesAreTheRoundedF32Ones) {
  const std::vector<Problem> wide = problems(DType::kF32), narrow = problems(DType::kBF16);
  for (size_t i = 0; i < wide.size(); ++i) {
    TestContext context;
    std::vector<float> want = write(backend(), wide[i], context).entries;
    for (float& entry : want) entry = bf16_to_f32(f32_to_bf16(entry));
    expect_same_bits(write(backend(), narrow[i], context).entries, want, wide[i].width(), narrow[i].text());
  }
}

// The int8 entry is that of the f32 entry's codes, group by group, exactly; the oracle's too.
TEST_P(LatentWriteTest, Int8EntriesAreTheCodesOfTheF32Ones) {
  const std::vector<Problem> wide = problems(DType::kF32), narrow = problems(DType::kI8);
  for (const Backend* each : {&backend(), &oracle()}) {
    for (size_t i = 0; i < wide.size(); ++i) {
      TestContext context;
      const Problem& p = wide[i];
      std::vector<float> want = write(*each, p, context).entries;
      std::vector<int8_t> codes(static_cast<size_t>(p.width()));
      for (size_t row = 0; row < want.size(); row += codes.size()) {
        for (int32_t g = 0; g < p.codes().num_groups(); ++g) {
          const int32_t begin = p.codes().begin(g), count = p.codes().begin(g + 1) - begin;
          float* values = want.data() + row + static_cast<size_t>(begin);
          const float scale = quantize_activations(values, count, codes.data());
          for (int32_t j = 0; j < count; ++j) values[j] = scale * static_cast<float>(codes[static_cast<size_t>(j)]);
        }
      }
      expect_same_bits(write(*each, narrow[i], context).entries, want, p.width(), narrow[i].text());
    }
  }
}

TEST_P(LatentWriteTest, SameBytesForAnyTeamAndInstructionSet) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    for (const Problem& p : problems(dtype)) {
      TestContext single;
      const std::vector<std::byte> want = write(*product_backends().front(), p, single).pool;
      for (int threads : {1, 2, 3}) {
        TestContext context(threads);
        EXPECT_EQ(write(backend(), p, context).pool, want) << p.text() << " " << threads << " threads";
      }
    }
  }
}

}  // namespace
}  // namespace sluice
