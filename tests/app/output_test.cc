#include "app/bench/output.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace sluice {
namespace {

const nlohmann::ordered_json kRow = {
    {"name", "a, \"b\""}, {"ttft_ms", {{"p50", 12.3456}, {"p99", nullptr}}}, {"count", 3}, {"rate", 1234.5}};

std::string printed(BenchOutput& output, std::vector<std::string> flags) {
  CLI::App app;
  output.add_to(app);
  std::reverse(flags.begin(), flags.end());
  app.parse(flags);
  EXPECT_TRUE(output.open().ok());
  ::testing::internal::CaptureStdout();
  output.row(kRow);
  output.row(kRow);
  return ::testing::internal::GetCapturedStdout();
}

TEST(BenchOutput, TablesShowTheChosenColumnsInFewDigits) {
  BenchOutput output({"ttft_ms.p50", "ttft_ms.p99", "rate"});
  EXPECT_EQ(printed(output, {}),
            "ttft_ms.p50  ttft_ms.p99     rate  \n"
            "      12.35            -     1234  \n"
            "      12.35            -     1234  \n");
}

TEST(BenchOutput, JsonIsOneObjectALine) {
  BenchOutput output;
  EXPECT_EQ(printed(output, {"--json"}), kRow.dump() + "\n" + kRow.dump() + "\n");
}

TEST(BenchOutput, CsvHoldsEverythingOnceNamed) {
  const std::string path = ::testing::TempDir() + "output_test_" + std::to_string(::getpid()) + ".csv";
  {
    BenchOutput output({"rate"});
    printed(output, {"--csv", path});
  }
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  EXPECT_EQ(text.str(),
            "name,ttft_ms.p50,ttft_ms.p99,count,rate\n"
            "\"a, \"\"b\"\"\",12.3456,,3,1234.5\n"
            "\"a, \"\"b\"\"\",12.3456,,3,1234.5\n");
}

TEST(BenchOutput, SaysWhereItCannotWrite) {
  BenchOutput output;
  CLI::App app;
  output.add_to(app);
  app.parse(std::vector<std::string>{"/nowhere/x.csv", "--csv"});
  EXPECT_EQ(output.open().to_string(), "NOT_FOUND: csv: /nowhere/x.csv cannot be written");
}

}  // namespace
}  // namespace sluice
