#include "model/config.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "temp_directory.h"
#include "test_configs.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

Result<ModelConfig> parse(const json& object) {
  return ModelConfig::parse(object.dump(), "config.json");
}

TEST(ModelConfig, ReadsV2Lite) {
  const Result<ModelConfig> parsed = parse(v2_lite_json());
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  const ModelConfig& c = *parsed;
  EXPECT_EQ(c.architecture, Architecture::kDeepSeekV2);
  EXPECT_EQ(c.model_type, "deepseek_v2");
  EXPECT_EQ(c.vocab_size, 102400);
  EXPECT_EQ(c.hidden_size, 2048);
  EXPECT_EQ(c.num_hidden_layers, 27);
  EXPECT_EQ(c.num_attention_heads, 16);
  EXPECT_EQ(c.intermediate_size, 10944);
  EXPECT_EQ(c.max_position_embeddings, 163840);
  EXPECT_EQ(c.rope_theta, 10000);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_EQ(c.qk_head_dim(), 192);
  EXPECT_EQ(c.latent_dim(), 576);
  EXPECT_EQ(c.topk_method, TopkMethod::kGreedy);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_FALSE(c.is_moe_layer(0));
  EXPECT_TRUE(c.is_moe_layer(1));
  EXPECT_FALSE(c.norm_topk_prob);
  ASSERT_TRUE(c.yarn.has_value());
  EXPECT_EQ(c.yarn->factor, 40);
  EXPECT_EQ(c.yarn->mscale, 0.707);
  EXPECT_EQ(c.yarn->mscale_all_dim, 0.707);
  EXPECT_EQ(c.yarn->original_max_position_embeddings, 4096);
  EXPECT_FALSE(c.yarn->attention_factor.has_value());
  EXPECT_TRUE(c.yarn->truncate);
  EXPECT_EQ(c.weight_block_rows, 0);
  EXPECT_EQ(c.bos_token_id, 100000);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(100001));
}

TEST(ModelConfig, ReadsV3) {
  const Result<ModelConfig> parsed = parse(v3_json());
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  const ModelConfig& c = *parsed;
  EXPECT_EQ(c.architecture, Architecture::kDeepSeekV3);
  EXPECT_EQ(c.q_lora_rank, 1536);
  EXPECT_EQ(c.topk_method, TopkMethod::kNoauxTc);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSigmoid);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 4);
  EXPECT_EQ(c.weight_block_rows, 128);
  EXPECT_EQ(c.weight_block_cols, 128);
  EXPECT_TRUE(c.rope_interleave);
  EXPECT_FALSE(c.is_moe_layer(2));
  EXPECT_TRUE(c.is_moe_layer(3));
}

TEST(ModelConfig, ReadsV32) {
  const Result<ModelConfig> parsed = parse(v32_json());
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->architecture, Architecture::kDeepSeekV32);
  EXPECT_EQ(parsed->index_n_heads, 64);
  EXPECT_EQ(parsed->index_head_dim, 128);
  EXPECT_EQ(parsed->index_topk, 2048);
  EXPECT_EQ(parsed->topk_method, TopkMethod::kNoauxTc);  // and all else as V3
  EXPECT_EQ(parsed->scoring_func, ScoringFunc::kSigmoid);
  EXPECT_TRUE(parsed->rope_interleave);
  // V3 has no indexer, whatever its file says.
  json v3 = v32_json();
  v3["model_type"] = "deepseek_v3";
  EXPECT_EQ(parse(v3)->index_topk, 0);
}

TEST(ModelConfig, ReadsEveryConfigOfTheRepository) {
  for (const char* folder : {"configs/demo-moe", "configs/shapes/lite", "configs/shapes/mini"}) {
    const Result<ModelConfig> config = ModelConfig::load(source_file(folder));
    EXPECT_TRUE(config.ok()) << config.status().to_string();
  }
}

TEST(ModelConfig, TakesNullAndMissingKeysAsAbsent) {
  json object = tiny_json();
  for (const char* key : {"n_routed_experts", "bos_token_id", "eos_token_id", "rope_scaling", "quantization_config",
                          "n_shared_experts", "n_group", "topk_group"})
    object[key] = nullptr;
  for (const char* key : {"rope_theta", "rms_norm_eps", "hidden_act", "num_key_value_heads", "tie_word_embeddings"})
    object.erase(key);
  const Result<ModelConfig> parsed = parse(object);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->n_routed_experts, 0);
  EXPECT_FALSE(parsed->is_moe_layer(1));
  EXPECT_FALSE(parsed->bos_token_id.has_value());
  EXPECT_TRUE(parsed->eos_token_ids.empty());
  EXPECT_FALSE(parsed->yarn.has_value());
  EXPECT_EQ(parsed->rope_theta, 10000);
  EXPECT_EQ(parsed->rms_norm_eps, 1e-6);
}

TEST(ModelConfig, ReadsSeveralEndTokens) {
  json object = tiny_json();
  object["eos_token_id"] = {1, 23};
  const Result<ModelConfig> parsed = parse(object);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_THAT(parsed->eos_token_ids, ElementsAre(1, 23));
}

TEST(ModelConfig, OfADuplicateKeyTheLastOneCounts) {
  std::string text = tiny_json().dump();
  text.insert(text.size() - 1, R"(,"vocab_size":30)");
  const Result<ModelConfig> parsed = ModelConfig::parse(text, "config.json");
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_EQ(parsed->vocab_size, 30);
}

// The three ways in which files spell the same position encoding.
TEST(ModelConfig, ReadsAllSpellingsOfYarn) {
  const std::optional<YarnConfig> expected = parse(v2_json())->yarn;
  ASSERT_TRUE(expected.has_value());
  json renamed = v2_json();
  renamed["rope_scaling"].erase("type");
  renamed["rope_scaling"]["rope_type"] = "yarn";
  json moved = renamed;
  moved["rope_parameters"] = moved["rope_scaling"];
  moved["rope_parameters"]["rope_theta"] = 20000.0;
  moved.erase("rope_scaling");
  moved.erase("rope_theta");
  json both = v2_json();
  both["rope_parameters"] = renamed["rope_scaling"];
  for (const json& object : {renamed, moved, both}) {
    const Result<ModelConfig> parsed = parse(object);
    ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
    EXPECT_EQ(parsed->yarn, expected);
  }
  EXPECT_EQ(parse(moved)->rope_theta, 20000);
}

TEST(ModelConfig, ReadsPlainRopeAndYarnDefaults) {
  json object = tiny_json();
  object["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 50000}};
  Result<ModelConfig> parsed = parse(object);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  EXPECT_FALSE(parsed->yarn.has_value());
  EXPECT_EQ(parsed->rope_theta, 50000);

  // Without a factor it is the stretch from the original context to this one.
  object["rope_parameters"] = {{"rope_type", "yarn"},
                               {"factor", nullptr},
                               {"original_max_position_embeddings", 16},
                               {"attention_factor", 1.5},
                               {"truncate", false}};
  parsed = parse(object);
  ASSERT_TRUE(parsed.ok()) << parsed.status().to_string();
  ASSERT_TRUE(parsed->yarn.has_value());
  EXPECT_EQ(parsed->yarn->factor, 4);
  EXPECT_EQ(parsed->yarn->beta_fast, 32);
  EXPECT_EQ(parsed->yarn->attention_factor, 1.5);
  EXPECT_FALSE(parsed->yarn->truncate);
}

// V2's own code either normalises the experts' weights or scales them.
TEST(ModelConfig, NormalisedWeightsOfV2AreNotScaled) {
  json object = v2_json();
  EXPECT_EQ(parse(object)->routed_scaling_factor, 16);
  object["norm_topk_prob"] = true;
  EXPECT_EQ(parse(object)->routed_scaling_factor, 1);
  EXPECT_TRUE(parse(object)->norm_topk_prob);
  object["num_experts_per_tok"] = 1;
  EXPECT_EQ(parse(object)->routed_scaling_factor, 16);
  EXPECT_FALSE(parse(object)->norm_topk_prob);
}

struct BadField {
  const char* key;  // "rope_scaling.factor" for a nested one
  json value;       // discarded: erase the key
  StatusCode code;
  const char* message;
};

const json kErase = json(json::value_t::discarded);
constexpr StatusCode kInvalid = StatusCode::kInvalidArgument;
constexpr StatusCode kUnsupported = StatusCode::kFailedPrecondition;

void apply(const BadField& bad, json& object) {
  std::string key = bad.key;
  json* place = &object;
  for (size_t dot = key.find('.'); dot != std::string::npos; dot = key.find('.')) {
    place = &(*place)[key.substr(0, dot)];
    key = key.substr(dot + 1);
  }
  if (bad.value.is_discarded()) {
    place->erase(key);
  } else {
    (*place)[key] = bad.value;
  }
}

void expect_refused(json object, const std::vector<BadField>& cases) {
  ASSERT_TRUE(parse(object).ok()) << parse(object).status().to_string();
  for (const BadField& bad : cases) {
    json changed = object;
    apply(bad, changed);
    const Result<ModelConfig> parsed = parse(changed);
    ASSERT_FALSE(parsed.ok()) << bad.key << " = " << bad.value;
    EXPECT_EQ(parsed.status().code(), bad.code) << bad.key;
    EXPECT_EQ(parsed.status().message(), std::string("config.json: ") + bad.message);
  }
}

TEST(ModelConfig, RefusesBadSizes) {
  expect_refused(
      v2_lite_json(),
      {{"num_attention_heads", "x", kInvalid, R"(num_attention_heads: expected a positive integer, found "x")"},
       {"num_attention_heads", nullptr, kInvalid, "num_attention_heads: expected a positive integer, found null"},
       {"vocab_size", kErase, kInvalid, "vocab_size: expected a positive integer, found no such key"},
       {"vocab_size", 0, kInvalid, "vocab_size: expected a positive integer, found 0"},
       {"hidden_size", -5, kInvalid, "hidden_size: expected a positive integer, found -5"},
       {"hidden_size", 2048.5, kInvalid, "hidden_size: expected a positive integer, found 2048.5"},
       {"hidden_size", 1e30, kInvalid, "hidden_size: expected a positive integer, found 1e+30"},
       {"hidden_size", uint64_t{1} << 63, kInvalid,
        "hidden_size: expected an integer in [1, 262144), found 9223372036854775808"},
       {"hidden_size", int64_t{1} << 32, kInvalid, "hidden_size: expected an integer in [1, 262144), found 4294967296"},
       {"num_hidden_layers", true, kInvalid, "num_hidden_layers: expected a positive integer, found true"},
       {"intermediate_size", json::array(), kInvalid, "intermediate_size: expected a positive integer, found []"},
       {"max_position_embeddings", json::object(), kInvalid,
        "max_position_embeddings: expected a positive integer, found an object"},
       {"rms_norm_eps", 0, kInvalid, "rms_norm_eps: expected a number in (0, 1), found 0"},
       {"rms_norm_eps", "1e-6", kInvalid, R"(rms_norm_eps: expected a number in (0, 1), found "1e-6")"},
       {"tie_word_embeddings", 1, kInvalid, "tie_word_embeddings: expected true or false, found 1"},
       {"hidden_act", "gelu", kUnsupported, R"(hidden_act: expected "silu", found "gelu")"},
       {"hidden_act", 3, kInvalid, "hidden_act: expected a string, found 3"},
       {"attention_bias", true, kUnsupported, "attention_bias: expected false, found true"},
       {"mlp_bias", true, kUnsupported, "mlp_bias: expected false, found true"}});
}

TEST(ModelConfig, RefusesBadAttention) {
  expect_refused(
      v2_lite_json(),
      {{"num_key_value_heads", 4, kUnsupported, "num_key_value_heads: expected num_attention_heads (16), found 4"},
       {"q_lora_rank", 0, kInvalid, "q_lora_rank: expected a positive integer, found 0"},
       {"q_lora_rank", "none", kInvalid, R"(q_lora_rank: expected a positive integer, found "none")"},
       {"kv_lora_rank", kErase, kInvalid, "kv_lora_rank: expected a positive integer, found no such key"},
       {"qk_nope_head_dim", -1, kInvalid, "qk_nope_head_dim: expected a positive integer, found -1"},
       {"qk_rope_head_dim", 63, kInvalid, "qk_rope_head_dim: expected an even integer, found 63"},
       {"v_head_dim", 1 << 20, kInvalid, "v_head_dim: expected an integer in [1, 8192), found 1048576"}});
}

TEST(ModelConfig, RefusesBadIndexer) {
  expect_refused(
      v32_json(),
      {{"index_topk", kErase, kInvalid, "index_topk: expected a positive integer, found no such key"},
       {"index_topk", 0, kInvalid, "index_topk: expected a positive integer, found 0"},
       {"index_n_heads", nullptr, kInvalid, "index_n_heads: expected a positive integer, found null"},
       {"index_n_heads", 4096, kInvalid, "index_n_heads: expected an integer in [1, 4096), found 4096"},
       {"index_head_dim", 1025, kInvalid, "index_head_dim: expected an integer in [1, 1025), found 1025"},
       {"index_head_dim", 63, kInvalid, "index_head_dim: expected at least qk_rope_head_dim (64), found 63"},
       {"q_lora_rank", nullptr, kInvalid, "q_lora_rank: expected a positive integer with deepseek_v32, found null"},
       {"rope_interleave", false, kUnsupported, "rope_interleave: expected true with deepseek_v32, found false"}});
}

TEST(ModelConfig, ReadsQwen3Moe) {
  json object = qwen3_moe_json();
  ModelConfig c = ModelConfig::parse(object.dump(), "config.json").value();
  EXPECT_EQ(c.architecture, Architecture::kQwen3Moe);
  ASSERT_TRUE(c.grouped);
  EXPECT_EQ(c.grouped->kv_heads, 4);
  EXPECT_EQ(c.grouped->width(), 512);
  EXPECT_EQ(c.qk_head_dim(), 128);
  EXPECT_FALSE(c.rope_interleave);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.n_shared_experts, 0);
  EXPECT_TRUE(c.is_moe_layer(0));
  object["decoder_sparse_step"] = 2;
  object["mlp_only_layers"] = {3, 5};
  object.erase("head_dim");
  c = ModelConfig::parse(object.dump(), "config.json").value();
  EXPECT_EQ(c.grouped->head_dim, 64);  // hidden_size / num_attention_heads
  std::vector<int32_t> moe;
  for (int32_t layer = 0; layer < 9; ++layer)
    if (c.is_moe_layer(layer)) moe.push_back(layer);
  EXPECT_EQ(moe, (std::vector<int32_t>{1, 7}));
}

TEST(ModelConfig, RefusesBadQwen3Moe) {
  expect_refused(
      qwen3_moe_json(),
      {{"num_key_value_heads", 5, kInvalid,
        "num_key_value_heads: expected a divisor of num_attention_heads (32), found 5"},
       {"num_key_value_heads", kErase, kInvalid, "num_key_value_heads: expected a positive integer, found no such key"},
       {"head_dim", 31, kInvalid, "head_dim: expected an even integer, found 31"},
       {"use_sliding_window", true, kUnsupported, "use_sliding_window: expected false, found true"},
       {"num_experts", 0, kInvalid, "num_experts: expected a positive integer, found 0"},
       {"num_experts_per_tok", 129, kInvalid, "num_experts_per_tok: expected at most num_experts (128), found 129"},
       {"norm_topk_prob", kErase, kInvalid, "norm_topk_prob: expected true or false, found no such key"},
       {"decoder_sparse_step", 0, kInvalid, "decoder_sparse_step: expected a positive integer, found 0"},
       {"attention_bias", true, kUnsupported, "attention_bias: expected false, found true"}});
}

TEST(ModelConfig, RefusesBadRope) {
  expect_refused(
      v2_lite_json(),
      {{"rope_theta", 1, kInvalid, "rope_theta: expected a number > 1, found 1"},
       {"rope_scaling", "yarn", kInvalid, R"(rope_scaling: expected an object or null, found "yarn")"},
       {"rope_scaling.type", kErase, kInvalid, "rope_scaling: type: expected a string, found no such key"},
       {"rope_scaling.type", "linear", kUnsupported,
        R"(rope_scaling: type: expected "yarn" or "default", found "linear")"},
       {"rope_scaling.rope_type", "dynamic", kUnsupported,
        R"(rope_scaling: rope_type: expected "yarn" or "default", found "dynamic")"},
       {"rope_scaling.factor", 0.5, kInvalid, "rope_scaling: factor: expected a number in [1, 1e6], found 0.5"},
       {"rope_scaling.beta_fast", 0.5, kInvalid, "rope_scaling: beta_fast: expected at least beta_slow (1), found 0.5"},
       {"rope_scaling.mscale", -1, kInvalid, "rope_scaling: mscale: expected a non-negative number, found -1"},
       {"rope_scaling.attention_factor", 0, kInvalid,
        "rope_scaling: attention_factor: expected a positive number, found 0"},
       {"rope_scaling.original_max_position_embeddings", 0, kInvalid,
        "rope_scaling: original_max_position_embeddings: expected a positive integer, found 0"},
       {"rope_scaling.truncate", "no", kInvalid, R"(rope_scaling: truncate: expected true or false, found "no")"},
       {"rope_parameters",
        {{"rope_type", "default"}},
        kInvalid,
        "rope_parameters: expected the same values as in rope_scaling, found others"}});
}

TEST(ModelConfig, RefusesBadExperts) {
  expect_refused(
      v2_json(),
      {{"n_routed_experts", kErase, kInvalid, "n_routed_experts: expected a positive integer, found no such key"},
       {"n_routed_experts", 161, kInvalid, "n_group: expected a divisor of n_routed_experts (161), found 8"},
       {"num_experts_per_tok", 61, kInvalid,
        "num_experts_per_tok: expected at most 60, the experts that a token can reach, found 61"},
       {"topk_group", 9, kInvalid, "topk_group: expected at most n_group (8), found 9"},
       {"moe_intermediate_size", nullptr, kInvalid, "moe_intermediate_size: expected a positive integer, found null"},
       {"first_k_dense_replace", 61, kInvalid,
        "first_k_dense_replace: expected at most num_hidden_layers (60), found 61"},
       {"first_k_dense_replace", -1, kInvalid, "first_k_dense_replace: expected a non-negative integer, found -1"},
       {"moe_layer_freq", 0, kInvalid, "moe_layer_freq: expected a positive integer, found 0"},
       {"n_shared_experts", -1, kInvalid, "n_shared_experts: expected a non-negative integer, found -1"},
       {"routed_scaling_factor", 0, kInvalid, "routed_scaling_factor: expected a positive number, found 0"},
       {"topk_method", "noaux_tc", kUnsupported,
        R"(topk_method: expected "greedy" or "group_limited_greedy" with deepseek_v2, found "noaux_tc")"},
       {"scoring_func", "sigmoid", kUnsupported,
        R"(scoring_func: expected "softmax" with deepseek_v2, found "sigmoid")"}});
  expect_refused(
      v3_json(),
      {{"n_group", 256, kInvalid, "n_group: expected at least 2 of the 256 experts in each group, found 256"},
       {"n_group", kErase, kInvalid, "n_group: expected a positive integer, found no such key"},
       {"norm_topk_prob", kErase, kInvalid, "norm_topk_prob: expected true or false, found no such key"},
       {"routed_scaling_factor", nullptr, kInvalid, "routed_scaling_factor: expected a positive number, found null"},
       {"topk_method", "greedy", kUnsupported,
        R"(topk_method: expected "noaux_tc" with deepseek_v3, found "greedy")"}});
}

TEST(ModelConfig, RefusesOtherQuantizations) {
  const std::string other = R"(quantization_config: quant_method: expected "fp8" with weight_block_size, )"
                            R"("compressed-tensors", "gptq" or "awq" (or an unquantised checkpoint), found "hqq")";
  expect_refused(
      v3_json(),
      {{"quantization_config.quant_method", "hqq", kUnsupported, other.c_str()},
       {"quantization_config.fmt", "e5m2", kUnsupported, R"(quantization_config: fmt: expected "e4m3", found "e5m2")"},
       {"quantization_config.weight_block_size", kErase, kUnsupported,
        "quantization_config: weight_block_size: expected [rows, columns] of a scale's block, found no such key"},
       {"quantization_config.weight_block_size",
        {128},
        kUnsupported,
        "quantization_config: weight_block_size: expected [rows, columns] of a scale's block, found [128]"},
       {"quantization_config.weight_block_size",
        {0, 128},
        kInvalid,
        "quantization_config: weight_block_size: expected an integer in [1, 65536) or a list of such, found [0,128]"},
       {"quantization_config", 8, kInvalid, "quantization_config: expected an object or null, found 8"}});
}

json with_quantization(const json& object) {
  json config = v2_lite_json();
  config["quantization_config"] = object;
  return config;
}

json pack_quantized_json(int32_t bits, int32_t group, bool symmetric) {
  const json weights = {{"num_bits", bits},   {"type", "int"},          {"symmetric", symmetric},
                                  {"strategy", "group"}, {"group_size", group}, {"actorder", nullptr}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", nullptr}}}}},
          {"ignore", {"lm_head"}}};
}

TEST(ModelConfig, ReadsReadyMadeQuantizations) {
  const auto scheme = [](const json& object) {
    const Result<ModelConfig> config = ModelConfig::parse(with_quantization(object).dump(), "config.json");
    EXPECT_TRUE(config.ok()) << config.status().to_string();
    return *config->packed;
  };
  EXPECT_EQ(scheme(pack_quantized_json(4, 64, true)),
            (PackedScheme{.layout = PackedLayout::kPackQuantized, .bits = 4, .group = 64, .symmetric = true}));
  json two = pack_quantized_json(4, 128, false);
  two["config_groups"]["group_1"] = pack_quantized_json(4, 32, false)["config_groups"]["group_0"];
  EXPECT_EQ(scheme(two).group, 128) << "the usual group is the largest one";
  EXPECT_FALSE(scheme(two).symmetric);
  const json gptq = {{"quant_method", "gptq"}, {"bits", 8}, {"group_size", -1}, {"desc_act", false}};
  EXPECT_EQ(scheme(gptq), (PackedScheme{.layout = PackedLayout::kGptq, .bits = 8, .zeros_less_one = true}));
  const json awq = {{"quant_method", "awq"}, {"w_bit", 4}, {"q_group_size", 128}, {"version", "GEMM"}};
  EXPECT_EQ(scheme(awq), (PackedScheme{.layout = PackedLayout::kAwq, .group = 128, .symmetric = false}));
}

TEST(ModelConfig, RefusesQuantizationsThatItCannotTakeExactly) {
  const std::string group = "quantization_config: config_groups: \"group_0\": ";
  const auto of_group = [&](const char* what) { return group + what; };
  const std::string bits = of_group("weights: num_bits: expected 4 or 8 bits, found 3");
  const std::string small = of_group("weights: group_size: expected 32, 64 or a multiple of 128, found 16");
  const std::string order = of_group("weights: actorder: expected null, \"weight\" or \"static\", found \"group\"");
  const std::string strategy = of_group("weights: strategy: expected \"group\" or \"channel\", found \"tensor\"");
  const std::string type = of_group("weights: type: expected \"int\", found \"float\"");
  const std::string inputs =
      of_group("input_activations: expected null (weights alone are quantised), found an object");
  const std::string at = "quantization_config.config_groups.group_0.";
  const auto key = [&](const char* name) { return at + name; };
  const std::string num_bits = key("weights.num_bits"), group_size = key("weights.group_size"),
                    actorder = key("weights.actorder"), strategy_key = key("weights.strategy"),
                    type_key = key("weights.type"), activations = key("input_activations");
  expect_refused(with_quantization(pack_quantized_json(4, 32, true)),
                 {{num_bits.c_str(), 3, kUnsupported, bits.c_str()},
                  {group_size.c_str(), 16, kUnsupported, small.c_str()},
                  {actorder.c_str(), "group", kUnsupported, order.c_str()},
                  {strategy_key.c_str(), "tensor", kUnsupported, strategy.c_str()},
                  {type_key.c_str(), "float", kUnsupported, type.c_str()},
                  {activations.c_str(), json::object({{"num_bits", 8}}), kUnsupported, inputs.c_str()},
                  {"quantization_config.format", "int-quantized", kUnsupported,
                   R"(quantization_config: format: expected "pack-quantized", found "int-quantized")"}});
  const json gptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}, {"desc_act", false}};
  expect_refused(with_quantization(gptq),
                 {{"quantization_config.desc_act", true, kUnsupported,
                   "quantization_config: desc_act: expected false (act-order is not supported), found true"},
                  {"quantization_config.checkpoint_format", "marlin", kUnsupported,
                   R"(quantization_config: checkpoint_format: expected "gptq" or "gptq_v2", found "marlin")"}});
  const json awq = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}, {"zero_point", true}};
  expect_refused(with_quantization(awq), {{"quantization_config.version", "gemv", kUnsupported,
                                           R"(quantization_config: version: expected "gemm", found "gemv")"},
                                          {"quantization_config.zero_point", false, kUnsupported,
                                           "quantization_config: zero_point: expected true, found false"}});
}

TEST(ModelConfig, RefusesBadTokens) {
  expect_refused(v2_lite_json(),
                 {{"bos_token_id", 102400, kInvalid, "bos_token_id: expected an integer in [0, 102400), found 102400"},
                  {"bos_token_id", -1, kInvalid, "bos_token_id: expected a non-negative integer, found -1"},
                  {"eos_token_id", 102400, kInvalid,
                   "eos_token_id: expected an integer in [0, 102400) or a list of such, found 102400"},
                  {"eos_token_id",
                   {1, "x"},
                   kInvalid,
                   R"(eos_token_id: expected an integer in [0, 102400) or a list of such, found [1,"x"])"}});
}

TEST(ModelConfig, RefusesOtherArchitecturesByName) {
  expect_refused(v2_lite_json(),
                 {{"model_type", "llama", kUnsupported,
                   "model_type: expected one of deepseek_v2, deepseek_v3, deepseek_v32, deepseek_v4, qwen3_moe, found "
                   "\"llama\""},
                  {"model_type", kErase, kInvalid, "model_type: expected a string, found no such key"},
                  {"model_type", 2, kInvalid, "model_type: expected a string, found 2"}});
}

TEST(ModelConfig, RefusesTextThatIsNoObject) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "expected JSON, found a syntax error at byte 1"},
      {"{\"a\":}", "expected JSON, found a syntax error at byte 6"},
      {"{} x", "expected JSON, found a syntax error at byte 4"},
      {"{\"a\": \"\xff\"}", "expected JSON, found a syntax error at byte 8"},
      {"[1]", "expected a JSON object, found [1]"},
      {"{\"a\": 1e999}", "expected JSON, found a number that is out of range"},
      {std::string(1 << 20, '['), "expected at most 64 nested brackets, found 1048576"},
      {"{\"a\":" + std::string(70, '[') + std::string(70, ']') + "}", "expected at most 64 nested brackets, found 71"},
  };
  for (const auto& [text, message] : cases) {
    const Result<ModelConfig> parsed = ModelConfig::parse(text, "config.json");
    ASSERT_FALSE(parsed.ok());
    EXPECT_EQ(parsed.status().code(), kInvalid);
    EXPECT_EQ(parsed.status().message(), "config.json: " + message);
  }
}

TEST(ModelConfig, LongOrStrangeValuesMakeShortOneLineErrors) {
  json object = tiny_json();
  object["model_type"] = "a\nb\x01" + std::string(100000, 'x');
  const std::string message = parse(object).status().message();
  EXPECT_LT(message.size(), 200u);
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_THAT(message, HasSubstr(R"(found "a\nb\u0001xxx)"));
}

TEST(ModelConfig, LoadNamesTheFile) {
  const TempDirectory directory;
  Result<ModelConfig> config = ModelConfig::load(directory.path());
  EXPECT_EQ(config.status().code(), StatusCode::kNotFound);
  EXPECT_EQ(config.status().message(), directory.file("config.json") + ": no such file");

  directory.write("config.json", std::string((1 << 20) + 1, ' '));
  config = ModelConfig::load(directory.path());
  EXPECT_EQ(config.status().code(), kUnsupported);
  EXPECT_EQ(config.status().message(),
            directory.file("config.json") + ": expected at most 1048576 bytes, found 1048577");

  std::filesystem::remove(directory.file("config.json"));
  std::filesystem::create_directory(directory.file("config.json"));
  config = ModelConfig::load(directory.path());
  EXPECT_EQ(config.status().code(), kUnsupported);
  EXPECT_EQ(config.status().message(),
            directory.file("config.json") + ": expected a regular file, found something else");
}

}  // namespace
}  // namespace sluice
