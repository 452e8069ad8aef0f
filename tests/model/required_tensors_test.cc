#include <map>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/checkpoint.h"
#include "test_configs.h"

namespace sluice {
namespace {

using nlohmann::json;

std::vector<std::string> listed(const json& object) {
  const Result<ModelConfig> config = ModelConfig::parse(object.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status().to_string();
  std::vector<std::string> lines;
  for (const TensorSpec& spec : required_tensors(*config)) lines.push_back(spec.name + " " + spec.shape.to_string());
  return lines;
}

bool contains(const std::vector<std::string>& lines, const std::string& line) {
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

TEST(RequiredTensors, OfATinyModelInLoadOrder) {
  json object = tiny_json();
  object["n_routed_experts"] = 2;
  object["n_shared_experts"] = 2;
  EXPECT_THAT(
      listed(object),
      testing::ElementsAre(
          "model.embed_tokens.weight [24, 12]", "model.layers.0.input_layernorm.weight [12]",
          "model.layers.0.self_attn.q_proj.weight [12, 12]",
          "model.layers.0.self_attn.kv_a_proj_with_mqa.weight [10, 12]",
          "model.layers.0.self_attn.kv_a_layernorm.weight [8]", "model.layers.0.self_attn.kv_b_proj.weight [16, 8]",
          "model.layers.0.self_attn.o_proj.weight [12, 8]", "model.layers.0.post_attention_layernorm.weight [12]",
          "model.layers.0.mlp.gate_proj.weight [20, 12]", "model.layers.0.mlp.up_proj.weight [20, 12]",
          "model.layers.0.mlp.down_proj.weight [12, 20]", "model.layers.1.input_layernorm.weight [12]",
          "model.layers.1.self_attn.q_proj.weight [12, 12]",
          "model.layers.1.self_attn.kv_a_proj_with_mqa.weight [10, 12]",
          "model.layers.1.self_attn.kv_a_layernorm.weight [8]", "model.layers.1.self_attn.kv_b_proj.weight [16, 8]",
          "model.layers.1.self_attn.o_proj.weight [12, 8]", "model.layers.1.post_attention_layernorm.weight [12]",
          "model.layers.1.mlp.gate.weight [2, 12]", "model.layers.1.mlp.experts.0.gate_proj.weight [6, 12]",
          "model.layers.1.mlp.experts.0.up_proj.weight [6, 12]",
          "model.layers.1.mlp.experts.0.down_proj.weight [12, 6]",
          "model.layers.1.mlp.experts.1.gate_proj.weight [6, 12]",
          "model.layers.1.mlp.experts.1.up_proj.weight [6, 12]",
          "model.layers.1.mlp.experts.1.down_proj.weight [12, 6]",
          "model.layers.1.mlp.shared_experts.gate_proj.weight [12, 12]",
          "model.layers.1.mlp.shared_experts.up_proj.weight [12, 12]",
          "model.layers.1.mlp.shared_experts.down_proj.weight [12, 12]", "model.norm.weight [12]",
          "lm_head.weight [24, 12]"));
}

TEST(RequiredTensors, OfV3) {
  const std::vector<std::string> lines = listed(v3_json());
  for (const char* line :
       {"model.layers.0.self_attn.q_a_proj.weight [1536, 7168]", "model.layers.0.self_attn.q_a_layernorm.weight [1536]",
        "model.layers.0.self_attn.q_b_proj.weight [24576, 1536]",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight [576, 7168]",
        "model.layers.0.self_attn.kv_b_proj.weight [32768, 512]",
        "model.layers.0.self_attn.o_proj.weight [7168, 16384]", "model.layers.2.mlp.down_proj.weight [7168, 18432]",
        "model.layers.3.mlp.gate.weight [256, 7168]", "model.layers.3.mlp.gate.e_score_correction_bias [256]",
        "model.layers.60.mlp.experts.255.down_proj.weight [7168, 2048]",
        "model.layers.60.mlp.shared_experts.up_proj.weight [2048, 7168]"})
    EXPECT_TRUE(contains(lines, line)) << line;
  for (const std::string& line : lines) EXPECT_FALSE(line.starts_with("model.layers.61.")) << line;
  // 61 layers with 9 attention tensors and norms, 3 dense, 58 with a router, a bias, 256 + 1 experts; embedding, norm,
  // head.
  EXPECT_EQ(lines.size(), 61u * 9 + 3 * 3 + 58 * (2 + 257 * 3) + 3);
  EXPECT_EQ(std::set<std::string>(lines.begin(), lines.end()).size(), lines.size());
}

// V3.2 adds an indexer to every layer, dense ones too.
TEST(RequiredTensors, OfV32) {
  const std::vector<std::string> lines = listed(v32_json()), v3 = listed(v3_json());
  for (const char* line :
       {"model.layers.0.self_attn.indexer.wq_b.weight [8192, 1536]",
        "model.layers.0.self_attn.indexer.wk.weight [128, 7168]",
        "model.layers.60.self_attn.indexer.k_norm.weight [128]", "model.layers.60.self_attn.indexer.k_norm.bias [128]",
        "model.layers.60.self_attn.indexer.weights_proj.weight [64, 7168]"})
    EXPECT_TRUE(contains(lines, line)) << line;
  EXPECT_EQ(lines.size(), v3.size() + 61 * 5);
  for (const std::string& line : v3) EXPECT_TRUE(contains(lines, line)) << line;
}

TEST(RequiredTensors, DenseAndTiedModelsHaveNeitherExpertsNorHead) {
  json object = tiny_json();
  object["n_routed_experts"] = nullptr;
  object["tie_word_embeddings"] = true;
  for (const std::string& line : listed(object)) {
    EXPECT_EQ(line.find("experts"), std::string::npos) << line;
    EXPECT_FALSE(line.starts_with("lm_head")) << line;
  }
}

TEST(RequiredTensors, FollowsTheFrequencyOfMoeLayers) {
  json object = tiny_json();
  object["num_hidden_layers"] = 6;
  object["moe_layer_freq"] = 2;
  const std::vector<std::string> lines = listed(object);
  for (int layer = 0; layer < 6; ++layer) {
    const bool is_moe = layer == 2 || layer == 4;
    EXPECT_EQ(contains(lines, fmt::format("model.layers.{}.mlp.gate.weight [4, 12]", layer)), is_moe) << layer;
    EXPECT_EQ(contains(lines, fmt::format("model.layers.{}.mlp.up_proj.weight [20, 12]", layer)), !is_moe) << layer;
  }
}

}  // namespace
}  // namespace sluice
