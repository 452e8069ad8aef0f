#include "app/bench/trace.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace sluice {
namespace {

class TraceTest : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    const std::string path = ::testing::TempDir() + "trace_test_" + std::to_string(::getpid()) + name;
    std::ofstream(path) << text;
    paths_.push_back(path);
    return path;
  }
  void TearDown() override {
    for (const std::string& path : paths_) std::filesystem::remove(path);
  }
  std::vector<std::string> paths_;
  TraceOptions options_{.requests = 10, .scale = 1, .context_length = 4096, .vocab_size = 500, .seed = 1};
};

constexpr const char* kMooncake =
    "{\"timestamp\": 1000, \"input_length\": 700, \"output_length\": 30, \"hash_ids\": [4, 5]}\n"
    "{\"timestamp\": 4500, \"input_length\": 1024, \"output_length\": 7, \"hash_ids\": [4, 9]}\n";

TEST_F(TraceTest, EqualBlocksOfMooncakeAreEqualTokens) {
  const auto sessions = read_trace(write(".jsonl", kMooncake), options_).value();
  ASSERT_EQ(sessions.size(), 2u);
  EXPECT_EQ(sessions[0].arrival, 0);
  EXPECT_EQ(sessions[1].arrival, 3.5);
  const auto &first = sessions[0].turns.at(0).tokens, &second = sessions[1].turns.at(0).tokens;
  EXPECT_EQ(first.size(), 700u);
  EXPECT_EQ(second.size(), 1024u);
  EXPECT_EQ(sessions[0].turns[0].output_tokens, 30);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 512, second.begin()));
  EXPECT_FALSE(std::equal(first.begin() + 512, first.begin() + 700, second.begin() + 512));
  for (TokenId token : second) ASSERT_TRUE(token >= 0 && token < 500);
}

TEST_F(TraceTest, ScaleShrinksBlocksAlike) {
  options_.scale = 0.125;
  const auto sessions = read_trace(write(".jsonl", kMooncake), options_).value();
  const auto &first = sessions[0].turns.at(0).tokens, &second = sessions[1].turns.at(0).tokens;
  EXPECT_EQ(first.size(), 88u);  // 87.5
  EXPECT_EQ(second.size(), 128u);
  EXPECT_EQ(sessions[0].turns[0].output_tokens, 4);  // 3.75
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 64, second.begin()));
  EXPECT_FALSE(std::equal(first.begin() + 64, first.end(), second.begin() + 64));
}

TEST_F(TraceTest, AnotherSeedIsAnotherText) {
  const std::string path = write(".jsonl", kMooncake);
  const auto one = read_trace(path, options_).value();
  options_.seed = 2;
  EXPECT_NE(read_trace(path, options_).value()[0].turns[0].tokens, one[0].turns[0].tokens);
}

TEST_F(TraceTest, CutsWhatTheContextDoesNotHold) {
  options_.context_length = 100;
  options_.requests = 1;
  const auto sessions = read_trace(write(".jsonl", kMooncake), options_).value();
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_EQ(sessions[0].turns[0].output_tokens, 30);
  EXPECT_EQ(sessions[0].num_tokens(), 100);
}

TEST_F(TraceTest, AzureHasLengthsAndTimesOverMidnight) {
  const auto sessions = read_trace(write(".csv",
                                         "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
                                         "2023-11-16 23:59:59.5000000,374,44\r\n"
                                         "2023-11-17 00:00:01.2500000,396,109\r\n"),
                                   options_)
                            .value();
  ASSERT_EQ(sessions.size(), 2u);
  EXPECT_NEAR(sessions[1].arrival, 1.75, 1e-6);
  EXPECT_EQ(sessions[1].turns[0].tokens.size(), 396u);
  EXPECT_EQ(sessions[1].turns[0].output_tokens, 109);
  EXPECT_FALSE(std::equal(sessions[0].turns[0].tokens.begin(), sessions[0].turns[0].tokens.begin() + 64,
                          sessions[1].turns[0].tokens.begin()));
}

TEST_F(TraceTest, ErrorsNameFileAndLine) {
  const std::string broken = write(".jsonl", std::string(kMooncake) + "{\"timestamp\": 1}\n");
  EXPECT_EQ(
      read_trace(broken, options_).status().to_string(),
      "INVALID_ARGUMENT: " + broken +
          ":3: expected an object with timestamp, input_length, output_length and hash_ids, found '{\"timestamp\": "
          "1}'");
  const std::string few =
      write("few.jsonl", "{\"timestamp\": 0, \"input_length\": 700, \"output_length\": 1, \"hash_ids\": [1]}\n");
  EXPECT_EQ(read_trace(few, options_).status().to_string(),
            "INVALID_ARGUMENT: " + few + ":1: expected hash_ids for each 512 of the input's 700 tokens, found 1 ids");
  const std::string csv = write(".csv", "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,3,4\n");
  EXPECT_EQ(read_trace(csv, options_).status().to_string(),
            "INVALID_ARGUMENT: " + csv +
                ":2: expected 'YYYY-MM-DD HH:MM:SS.S,ContextTokens,GeneratedTokens', found 'yesterday,3,4'");
  EXPECT_EQ(read_trace("x.txt", options_).status().to_string(),
            "INVALID_ARGUMENT: trace: expected a .jsonl (Mooncake) or .csv (Azure) file, found 'x.txt'");
  EXPECT_EQ(read_trace("/nowhere.csv", options_).status().to_string(), "NOT_FOUND: trace: /nowhere.csv cannot be read");
  const std::string empty = write("empty.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n");
  EXPECT_EQ(read_trace(empty, options_).status().to_string(),
            "INVALID_ARGUMENT: trace: " + empty + " holds no requests");
}

TEST_F(TraceTest, ReadsThePublicTraces) {
  const char* data = std::getenv("SLUICE_TEST_DATA");
  const auto folder = std::filesystem::path(data ? data : "") / "traces";
  if (!data || !std::filesystem::exists(folder / "azure_llm_2023_conv.csv"))
    GTEST_SKIP() << "SLUICE_TEST_DATA names no folder with traces/azure_llm_2023_conv.csv";
  options_.requests = 1'000'000;
  options_.scale = 0.01;
  EXPECT_EQ(read_trace(folder / "azure_llm_2023_conv.csv", options_).value().size(), 19'366u);
  EXPECT_EQ(read_trace(folder / "azure_llm_2023_code.csv", options_).value().size(), 8'819u);
  const auto conversation = read_trace(folder / "mooncake_conversation.jsonl", options_).value();
  EXPECT_EQ(conversation.size(), 12'031u);
  EXPECT_NEAR(conversation.back().arrival, 59 * 60, 60);
  EXPECT_EQ(read_trace(folder / "mooncake_synthetic.jsonl", options_).value().size(), 3'993u);
}

}  // namespace
}  // namespace sluice
