#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/config.h"
#include "temp_directory.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

using testing::ElementsAre;

ModelInfo base_info() {
  ModelInfo info;
  info.vocab_size = 100;
  info.eos_token_ids = {1};
  info.default_max_tokens = 77;
  return info;
}

TEST(GenerationConfig, AnAbsentFileChangesNothing) {
  const TempDirectory directory;
  ModelInfo info = base_info();
  EXPECT_TRUE(apply_generation_config(directory.path(), info).ok());
  EXPECT_EQ(info.default_max_tokens, 77);
  EXPECT_EQ(info.default_sampling.temperature, 1.0f);
  EXPECT_THAT(info.eos_token_ids, ElementsAre(1));
}

TEST(GenerationConfig, ReadsTheDemoModels) {
  ModelInfo info = base_info();
  const Status status = apply_generation_config(source_file("configs/demo-moe"), info);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(info.default_sampling.temperature, 0.7f);
  EXPECT_EQ(info.default_sampling.top_p, 0.95f);
  EXPECT_EQ(info.default_max_tokens, 256);
  EXPECT_THAT(info.eos_token_ids, ElementsAre(1));
}

TEST(GenerationConfig, ReadsEveryKeyAndIgnoresOthers) {
  const TempDirectory directory;
  directory.write("generation_config.json",
                  R"({"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
                      "max_new_tokens": 9, "eos_token_id": [3, 4], "transformers_version": "4", "num_beams": 4})");
  ModelInfo info = base_info();
  const Status status = apply_generation_config(directory.path(), info);
  ASSERT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(info.default_sampling.temperature, 0.5f);
  EXPECT_EQ(info.default_sampling.top_p, 0.9f);
  EXPECT_EQ(info.default_sampling.top_k, 40);
  EXPECT_EQ(info.default_sampling.min_p, 0.05f);
  EXPECT_EQ(info.default_sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(info.default_max_tokens, 9);
  EXPECT_THAT(info.eos_token_ids, ElementsAre(3, 4));
  EXPECT_TRUE(validate(info.default_sampling, info.vocab_size).ok());
}

TEST(GenerationConfig, NullLeavesADefaultAlone) {
  const TempDirectory directory;
  directory.write("generation_config.json",
                  R"({"temperature": null, "top_k": null, "max_new_tokens": null, "eos_token_id": null})");
  ModelInfo info = base_info();
  ASSERT_TRUE(apply_generation_config(directory.path(), info).ok());
  EXPECT_EQ(info.default_sampling.temperature, 1.0f);
  EXPECT_EQ(info.default_max_tokens, 77);
  EXPECT_THAT(info.eos_token_ids, ElementsAre(1));
}

TEST(GenerationConfig, NotSamplingIsTemperatureZero) {
  const TempDirectory directory;
  directory.write("generation_config.json", R"({"do_sample": false, "temperature": 0.7})");
  ModelInfo info = base_info();
  ASSERT_TRUE(apply_generation_config(directory.path(), info).ok());
  EXPECT_EQ(info.default_sampling.temperature, 0.0f);
}

TEST(GenerationConfig, RefusesBadValuesAndLeavesTheInfoAlone) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"temperature": -1})", "temperature: expected a number in [0, 100], found -1"},
      {R"({"temperature": "hot"})", "temperature: expected a number in [0, 100], found \"hot\""},
      {R"({"top_p": 1.5})", "top_p: expected a number in (0, 1], found 1.5"},
      {R"({"top_p": 1e-60})", "top_p: expected a number in (0, 1], found 1e-60"},
      {R"({"min_p": -0.1})", "min_p: expected a number in [0, 1], found -0.1"},
      {R"({"top_k": -1})", "top_k: expected a non-negative integer, found -1"},
      {R"({"top_k": 0.5})", "top_k: expected a non-negative integer, found 0.5"},
      {R"({"repetition_penalty": 0})", "repetition_penalty: expected a number in (0, 10], found 0"},
      {R"({"do_sample": "yes"})", "do_sample: expected true or false, found \"yes\""},
      {R"({"max_new_tokens": 0})", "max_new_tokens: expected a positive integer, found 0"},
      {R"({"eos_token_id": 100})", "eos_token_id: expected an integer in [0, 100) or a list of such, found 100"},
      {R"({"temperature": 0.5, "eos_token_id": {}})",
       "eos_token_id: expected an integer in [0, 100) or a list of such, found an object"},
      {"{", "expected JSON, found a syntax error at byte 2"},
      {"7", "expected a JSON object, found 7"},
  };
  const TempDirectory directory;
  for (const auto& [text, message] : cases) {
    directory.write("generation_config.json", text);
    ModelInfo info = base_info();
    const Status status = apply_generation_config(directory.path(), info);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(status.message(), directory.file("generation_config.json") + ": " + message);
    EXPECT_EQ(info.default_sampling.temperature, 1.0f) << text;
  }
}

}  // namespace
}  // namespace sluice
