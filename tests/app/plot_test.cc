#include "app/bench/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Plot, PutsPointsWhereTheirValuesSay) {
  // y spans one power of ten, [10, 100]; x ends at 8. The panel's rectangle is 62..382 x 34..274.
  const std::string svg = to_svg({{"title", "x", "y", {{"p50", {{0, 10}, {4, 31.6227766}, {8, 100}}}}}});
  EXPECT_THAT(svg, HasSubstr("<polyline points=\"62.0,274.0 222.0,154.0 382.0,34.0 \""));
  EXPECT_THAT(svg, HasSubstr(">10</text>"));
  EXPECT_THAT(svg, HasSubstr(">100</text>"));
  EXPECT_THAT(svg, HasSubstr("width=\"400\" height=\"322\""));
}

TEST(Plot, EscapesTextAndLeavesOutWhatALogarithmDoesNotHave) {
  const std::string svg = to_svg({{"a < b & c", "x", "y", {{"<p>", {{1, 0}, {2, 5}}}}}});
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  EXPECT_THAT(svg, HasSubstr("&lt;p&gt;"));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(Plot, DrawsPanelsSideBySideAndEmptyOnes) {
  const std::string svg = to_svg({{"one", "x", "y", {}}, {"two", "x", "y", {{"s", {}}}}});
  EXPECT_THAT(svg, HasSubstr("width=\"800\""));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace sluice
