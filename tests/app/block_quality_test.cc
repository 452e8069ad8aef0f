// What block attention does to the bundled model's perplexity at the longest contexts that it knows, and how the bench
// finds the share of pages at which to ask.
#include <gtest/gtest.h>

#include "app/bench/cell.h"
#include "app/bench/quality.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

const std::string kText = source_file("tests/golden/demo-moe/heldout.txt");

constexpr BlockGlobalConfig mode_of(int32_t pages, int32_t full_every = 0) {
  return {.pages = pages, .sink_pages = 1, .window_pages = 2, .full_every = full_every};
}

// It was trained on 512 positions (8 pages) and is told to know 2,048 (32 pages), where text makes little sense to it.
// Half the pages, and a quarter.
TEST(BlockQuality, PerplexityStaysWithinAPercentOfFullAttention) {
  struct Case {
    int32_t window, pages;
  };
  for (const auto& [window, pages] : {Case{511, 4}, {2046, 16}, {2046, 8}}) {
    Result<QualityMeter> meter = QualityMeter::open({}, "", kText, window);
    ASSERT_TRUE(meter.ok()) << meter.status().to_string();
    const double full = meter->perplexity(std::nullopt).value(), blocks = meter->perplexity(mode_of(pages)).value();
    EXPECT_NE(full, blocks);
    EXPECT_LT(std::abs(blocks / full - 1), 0.01) << "window " << window << fmt::format(": {} and {}", full, blocks);
    std::printf("window %d, %d pages: perplexity %.4f, full %.4f\n", window, pages, blocks, full);
    EXPECT_EQ(meter->perplexity(mode_of(window / kPageTokens + 1)).value(), full);  // all pages
  }
}

TEST(BlockQuality, AsksAtTheSameShare) {
  EXPECT_EQ(pages_at_same_share(mode_of(64), 64, 32), 32);   // all
  EXPECT_EQ(pages_at_same_share(mode_of(64), 256, 32), 8);   // a quarter
  EXPECT_EQ(pages_at_same_share(mode_of(64), 1024, 32), 4);  // a sixteenth would be 2: the sink, the window and one
  EXPECT_EQ(pages_at_same_share(mode_of(64), 1024, 2), 2);   // less than these
  EXPECT_EQ(pages_at_same_share(mode_of(64), 65, 32), 32);   // nearly all: rounded
}

TEST(BlockQuality, ErrorsNameTheFile) {
  EXPECT_FALSE(QualityMeter::open({}, "", "/nonexistent.txt", 0).ok());
  EXPECT_FALSE(QualityMeter::open({}, "/nonexistent", kText, 0).ok());
}

// The cells of a bench count what block attention reads.
TEST(BlockQuality, CellsReadNoMoreThanTheChosenPages) {
  Options options;
  options.threads = 1;
  options.cache_memory_mib = 8;
  options.attention = "block_global";
  options.block_global_pages = 4;
  options.block_global_window_pages = 2;
  for (int32_t full_every : {0, 3}) {  // of 6 layers none, or 2
    options.block_global_full_every = full_every;
    const auto loaded = std::move(LoadedModel::load(options)).value();
    CellRunner runner(*loaded, 1);
    const CellRun run = runner.run({.kind = CellKind::kDecode, .tokens = 2, .depth = 598, .batch = 1});
    EXPECT_EQ(run.cached_positions, full_every == 0 ? 2 * 256 : (2 * 599 + 4 * 256) / 6 + (2 * 600 + 4 * 256) / 6);
  }
}

}  // namespace
}  // namespace sluice
