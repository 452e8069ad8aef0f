#include "model/inspect.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "test_configs.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::HasSubstr;

ModelConfig config_of(const json& object) {
  Result<ModelConfig> config = ModelConfig::parse(object.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status().to_string();
  return *config;
}

int64_t bytes_of(const ModelReport& report, WeightFormat wanted) {
  for (const auto& [format, bytes] : report.weights_bytes)
    if (format == wanted) return bytes;
  ADD_FAILURE() << "no bytes of " << name(wanted);
  return 0;
}

// The published sizes, to the digits in which they are published.
TEST(Inspect, CountsTheReleasedModels) {
  struct Case {
    json config;
    double total, active, active_without_embedding;  // billions
    double tolerance;
    int64_t cache_bytes;  // a token, bf16
  };
  const Case cases[] = {
      {v2_lite_json(), 15.71, 2.66, 2.45, 0.005, 27 * 1152},
      {v2_json(), 235.7, 21.4, 21.4 - 0.524, 0.05, 60 * 1152},
      {v3_json(), 671.0, 37.6, 36.6, 0.05, 61 * 1152},
      {v32_json(), 671.9, 38.4, 38.4 - 0.927, 0.05, 61 * 1408},
      {qwen3_moe_json(), 30.53, 3.35, 3.04, 0.005, 48 * 2048},
  };
  for (const Case& expected : cases) {
    const ModelReport report = inspect(config_of(expected.config));
    EXPECT_NEAR(static_cast<double>(report.parameters) / 1e9, expected.total, expected.tolerance);
    EXPECT_NEAR(static_cast<double>(report.active_parameters) / 1e9, expected.active, expected.tolerance);
    EXPECT_NEAR(static_cast<double>(report.active_parameters_without_embedding) / 1e9,
                expected.active_without_embedding, expected.tolerance);
    EXPECT_EQ(report.cache_bytes_per_token_bf16, expected.cache_bytes);
    EXPECT_EQ(report.cache_bytes_per_token_f32, 2 * expected.cache_bytes);
  }
}

TEST(Inspect, CountsTheDemoModelExactly) {
  const std::string directory = source_file("configs/demo-moe");
  const ModelConfig config = *ModelConfig::load(directory);
  const Checkpoint checkpoint = *Checkpoint::open(directory, config);
  const ModelReport report = inspect(config, &checkpoint);
  EXPECT_EQ(report.architecture, "deepseek_v2");
  EXPECT_EQ(report.parameters, 12'320'384);  // its MODEL_CARD.md
  // All but the 12 idle experts of each of the 5 layers. The card says "about 6,299,264", which counts a quarter of the
  // shared experts out.
  EXPECT_EQ(report.active_parameters, 12'320'384 - 5 * 12 * (3 * 128 * 256));
  EXPECT_EQ(report.num_moe_layers, 5);
  EXPECT_EQ(report.context_length, 2048);
  EXPECT_EQ(report.cache_bytes_per_token_bf16, 6 * 80 * 2);
  EXPECT_EQ(bytes_of(report, WeightFormat::kF32), report.parameters * 4);
  EXPECT_EQ(bytes_of(report, WeightFormat::kBF16), report.parameters * 2);
  ASSERT_TRUE(report.files.has_value());
  EXPECT_EQ(report.files->bytes, 24'676'592);
  EXPECT_EQ(report.files->tensors_by_dtype, (std::map<std::string, int64_t>{{"BF16", checkpoint.names().size()}}));
}

// Every figure of a model small enough to count by hand.
TEST(Inspect, CountsATinyModelByHand) {
  const ModelReport report = inspect(config_of(tiny_json()));
  const int64_t embedding = 24 * 12, head = embedding;
  const int64_t attention = 12 * 12 + 10 * 12 + 16 * 8 + 12 * 8, dense = 3 * 20 * 12, expert = 3 * 6 * 12;
  const int64_t router = 4 * 12, norms = 2 * (12 + 8 + 12) + 12;
  const int64_t matrices = head + 2 * attention + dense + (4 + 1) * expert;
  EXPECT_EQ(report.parameters, embedding + matrices + router + norms);
  EXPECT_EQ(report.quantizable_parameters, matrices);
  EXPECT_EQ(report.active_parameters, report.parameters - 2 * expert);
  EXPECT_EQ(report.active_parameters_without_embedding, report.active_parameters - embedding);
  EXPECT_EQ(report.flop_per_token, 2 * (matrices - 2 * expert + router));
  EXPECT_EQ(report.attention_flop_per_context_token, 2 * 2 * 2 * (10 + 8));  // layers, heads, multiply-add
  EXPECT_EQ(report.cache_bytes_per_token_bf16, 2 * 10 * 2);
  EXPECT_DOUBLE_EQ(report.flop_per_parameter,
                   static_cast<double>(report.flop_per_token) / static_cast<double>(report.parameters));
  EXPECT_FALSE(report.files.has_value());

  json tied_json = tiny_json();
  tied_json["tie_word_embeddings"] = true;
  const ModelReport tied = inspect(config_of(tied_json));
  EXPECT_EQ(tied.parameters, report.parameters - head);
  EXPECT_EQ(tied.flop_per_token, report.flop_per_token);

  json dense_json = tiny_json();
  dense_json["n_routed_experts"] = nullptr;
  const ModelReport plain = inspect(config_of(dense_json));
  EXPECT_EQ(plain.active_parameters, plain.parameters);
  EXPECT_EQ(plain.num_moe_layers, 0);
}

// INT4 in groups of 32 is 4.5 bits a quantisable weight; embedding, router and norms stay at 16.
TEST(Inspect, WeighsV2LiteInEveryFormat) {
  const ModelReport report = inspect(config_of(v2_lite_json()));
  const int64_t kept = report.parameters - report.quantizable_parameters;
  EXPECT_EQ(kept, 102400 * 2048 + 26 * 64 * 2048 + 27 * (2048 + 512 + 2048) + 2048);
  EXPECT_EQ(bytes_of(report, WeightFormat::kBF16), report.parameters * 2);
  EXPECT_EQ(bytes_of(report, WeightFormat::kInt4G32), report.quantizable_parameters * 9 / 16 + kept * 2);
  EXPECT_GT(bytes_of(report, WeightFormat::kInt4G32), bytes_of(report, WeightFormat::kInt4G64));
  EXPECT_GT(bytes_of(report, WeightFormat::kInt4G64), bytes_of(report, WeightFormat::kInt4G128));
  EXPECT_GT(bytes_of(report, WeightFormat::kInt8), bytes_of(report, WeightFormat::kInt4G32));
  EXPECT_NEAR(static_cast<double>(bytes_of(report, WeightFormat::kInt4G32)) / 1e9, 9.1, 0.1);
}

// What V3.2 adds to V3: a group of the cache, an indexer in every layer, and an end to what a token's attention reads.
TEST(Inspect, TellsWhatTheIndexerCosts) {
  const ModelReport v3 = inspect(config_of(v3_json())), report = inspect(config_of(v32_json()));
  const int64_t query = int64_t{64} * 128 * 1536, key = int64_t{128} * 7168, weights = int64_t{64} * 7168;
  EXPECT_EQ(report.parameters - v3.parameters, 61 * (query + key + weights + 2 * 128));
  EXPECT_EQ(report.quantizable_parameters - v3.quantizable_parameters, 61 * (query + key));
  EXPECT_EQ(report.flop_per_token - v3.flop_per_token, 2 * 61 * (query + key + weights));
  ASSERT_EQ(report.cache_groups.size(), 2u);
  EXPECT_EQ(report.cache_groups[0].name, "latent");
  EXPECT_EQ(report.cache_groups[0].bytes_per_token_bf16, 61 * 576 * 2);
  EXPECT_EQ(report.cache_groups[1].name, "index");
  EXPECT_EQ(report.cache_groups[1].bytes_per_token_bf16, 61 * 128 * 2);
  EXPECT_EQ(report.cache_groups[1].bytes_per_token_f32, 61 * 128 * 4);
  EXPECT_EQ(v3.cache_groups.size(), 1u);
  EXPECT_EQ(report.attention_context_limit, 2048);
  EXPECT_EQ(v3.attention_context_limit, 0);
  EXPECT_EQ(report.index_flop_per_context_token, 61 * 64 * 128 * 2);
  const std::string text = to_text(report);
  EXPECT_THAT(text, HasSubstr("cache                   85888 bytes a token (bf16: latent 70272, index 15616), 171776 "
                              "(f32)\n"));
  EXPECT_THAT(text, HasSubstr(" a token of context (at most 2048), and 1.00 MFLOP to choose them\n"));
  EXPECT_EQ(json::parse(to_json(report))["cache_groups"], json({{"latent", 70272}, {"index", 15616}}));
}

TEST(Inspect, RandomWeightsHaveNoFiles) {
  const ModelConfig config = config_of(tiny_json());
  const Checkpoint random = Checkpoint::random(1, config);
  EXPECT_FALSE(inspect(config, &random).files.has_value());
}

TEST(Inspect, PrintsJsonAndText) {
  ModelReport report = inspect(config_of(v2_lite_json()));
  report.files = FileReport{1234, {{"BF16", 3}, {"F32", 1}}};
  const std::string text = to_json(report);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  const json parsed = json::parse(text);
  EXPECT_EQ(parsed["architecture"], "deepseek_v2");
  EXPECT_EQ(parsed["parameters"], report.parameters);
  EXPECT_EQ(parsed["active_parameters"], report.active_parameters);
  EXPECT_EQ(parsed["cache_bytes_per_token"], 31104);
  EXPECT_EQ(parsed["flop_per_token"], report.flop_per_token);
  EXPECT_EQ(parsed["weights_bytes"].size(), 9u);
  EXPECT_EQ(parsed["weights_bytes"]["int4-g32"], bytes_of(report, WeightFormat::kInt4G32));
  EXPECT_EQ(parsed["file_bytes"], 1234);
  EXPECT_EQ(parsed["tensors_by_dtype"]["BF16"], 3);

  const std::string lines = to_text(report);
  EXPECT_THAT(lines, HasSubstr("parameters              15.71 B (15706484224)\n"));
  EXPECT_THAT(lines, HasSubstr("active a token          2.66 B (2.45 B without the embedding)\n"));
  EXPECT_THAT(lines, HasSubstr("experts                 6 of 64 a token, 2 shared\n"));
  EXPECT_THAT(lines, HasSubstr("weights bf16            31.41 GB\n"));
  EXPECT_THAT(lines, HasSubstr("cache                   31104 bytes a token (bf16), 62208 (f32), 16092 (int8)\n"));
  EXPECT_THAT(lines, HasSubstr("arithmetic              4.90 GFLOP a token, and 0.94 MFLOP a token of context\n"));
  EXPECT_THAT(lines, HasSubstr("files                   1234 bytes, 3 BF16, 1 F32\n"));
}

}  // namespace
}  // namespace sluice
