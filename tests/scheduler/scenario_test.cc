// Runs every scenario of tests/scenario.
#include "tests/support/scenario.h"
#include "tests/support/source_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace sluice {
namespace {

std::vector<std::filesystem::path> all_scenarios() {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(source_file("tests/scenario")))
    if (entry.path().extension() == ".scn") found.push_back(entry.path());
  std::ranges::sort(found);
  return found;
}

class ScenarioTest : public ::testing::TestWithParam<std::filesystem::path> {};

TEST_P(ScenarioTest, GoesAsWritten) {
  std::ifstream file(GetParam());
  std::stringstream text;
  text << file.rdbuf();
  ASSERT_FALSE(text.str().empty()) << GetParam();
  EXPECT_EQ(run_scenario(GetParam().filename().string(), text.str()), "");
}

INSTANTIATE_TEST_SUITE_P(All, ScenarioTest, ::testing::ValuesIn(all_scenarios()),
                         [](const auto& entry) { return entry.param.stem().string(); });

TEST(ScenarioRunner, SaysWhatItExpectedAndFound) {
  const std::string text = "pool pages=8\nsubmit A prompt=10 new=1\nstep -> prefill A[0,11)\n";
  EXPECT_EQ(run_scenario("x", text), "x:3: \n  expected  prefill A[0,11)\n  found     prefill A[0,10)");
  EXPECT_EQ(run_scenario("x", "expect free=3"), "x:1: expected free=3, found free=8");
  EXPECT_EQ(run_scenario("x", "jump"), "x:1: unknown directive 'jump'");
}

}  // namespace
}  // namespace sluice
