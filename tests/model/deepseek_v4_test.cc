// DeepSeek-V4 as far as it is read: its config, its tensors and their number formats, what `inspect` says of it, and
// what is refused.
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/deepseek.h"
#include "model/inspect.h"
#include "model/power_scales.h"
#include "safetensors_writer.h"
#include "temp_directory.h"
#include "test_configs.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

ModelConfig config_of(const json& object) {
  Result<ModelConfig> config = ModelConfig::parse(object.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status().to_string();
  return *config;
}

TEST(DeepSeekV4, ReadsTheReleasedConfigs) {
  const ModelConfig flash = config_of(v4_flash_json()), pro = config_of(v4_pro_json());
  ASSERT_TRUE(flash.hybrid && pro.hybrid);
  EXPECT_EQ(flash.architecture, Architecture::kDeepSeekV4);
  EXPECT_EQ(flash.scoring_func, ScoringFunc::kSqrtSoftplus);
  EXPECT_EQ(flash.hybrid->head_dim, 512);
  EXPECT_EQ(flash.hybrid->o_groups, 8);
  EXPECT_EQ(flash.hybrid->sliding_window, 128);
  EXPECT_EQ(flash.hybrid->compress_rope_theta, 160000);
  EXPECT_EQ(flash.hybrid->num_hash_layers, 3);
  EXPECT_EQ(flash.hybrid->swiglu_limit, 10);
  EXPECT_EQ(flash.hybrid->hc_mult, 4);
  EXPECT_EQ(flash.hybrid->hc_sinkhorn_iters, 20);
  EXPECT_TRUE(flash.hybrid->fp4_experts);
  EXPECT_EQ(flash.yarn->factor, 16);
  EXPECT_TRUE(flash.is_moe_layer(0));
  // The entry of the multi-token-prediction layer is cut off.
  ASSERT_EQ(flash.hybrid->compress_ratios.size(), 43u);
  EXPECT_EQ(flash.hybrid->compress_ratios[1], 0);
  EXPECT_EQ(flash.hybrid->compress_ratios[2], 4);
  EXPECT_EQ(flash.hybrid->compress_ratios[42], 4);
  EXPECT_EQ(pro.hybrid->compress_ratios[0], 128);
  EXPECT_FALSE(config_of(v3_json()).hybrid.has_value());
}

TEST(DeepSeekV4, RefusesBadConfigs) {
  const struct {
    const char* key;
    json value;
    StatusCode code;
    const char* message;
  } cases[] = {
      {"num_key_value_heads", 2, StatusCode::kFailedPrecondition,
       "num_key_value_heads: expected 1 with deepseek_v4, found 2"},
      {"compress_ratios", nullptr, StatusCode::kInvalidArgument,
       "compress_ratios: expected at least num_hidden_layers (3) integers, found null"},
      {"compress_ratios",
       {0, 4},
       StatusCode::kInvalidArgument,
       "compress_ratios: expected at least num_hidden_layers (3) integers, found [0,4]"},
      {"compress_ratios",
       {0, 4, 64},
       StatusCode::kFailedPrecondition,
       "compress_ratios: expected 0, 4 or 128 for each layer, found [0,4,64]"},
      {"o_groups", 3, StatusCode::kInvalidArgument, "o_groups: expected a divisor of num_attention_heads (2), found 3"},
      {"head_dim", 2, StatusCode::kInvalidArgument, "head_dim: expected at least qk_rope_head_dim (4), found 2"},
      {"scoring_func", "sigmoid", StatusCode::kFailedPrecondition,
       "scoring_func: expected \"sqrtsoftplus\" with deepseek_v4, found \"sigmoid\""},
      {"norm_topk_prob", false, StatusCode::kFailedPrecondition,
       "norm_topk_prob: expected true with deepseek_v4, found false"},
      {"num_hash_layers", 4, StatusCode::kInvalidArgument,
       "num_hash_layers: expected at most num_hidden_layers (3), found 4"},
      {"num_experts_per_tok", 5, StatusCode::kInvalidArgument,
       "num_experts_per_tok: expected at most n_routed_experts (4), found 5"},
      {"expert_dtype", "int4", StatusCode::kFailedPrecondition,
       "expert_dtype: expected \"fp4\" or \"fp8\", found \"int4\""},
      {"hc_mult", 0, StatusCode::kInvalidArgument, "hc_mult: expected a positive integer, found 0"},
      {"tie_word_embeddings", true, StatusCode::kFailedPrecondition,
       "tie_word_embeddings: expected false with deepseek_v4, found true"},
  };
  for (const auto& bad : cases) {
    json object = tiny_v4_json();
    object[bad.key] = bad.value;
    const Result<ModelConfig> parsed = ModelConfig::parse(object.dump(), "config.json");
    ASSERT_FALSE(parsed.ok()) << bad.key;
    EXPECT_EQ(parsed.status().code(), bad.code) << bad.key;
    EXPECT_EQ(parsed.status().message(), std::string("config.json: ") + bad.message);
  }
}

// The census of V4-Pro's files, tensor by tensor; experts in values, two to a byte on disk.
TEST(DeepSeekV4, ListsTheTensorsOfPro) {
  std::vector<std::string> lines;
  for (const TensorSpec& spec : required_tensors(config_of(v4_pro_json())))
    lines.push_back(spec.name + " " + spec.shape.to_string());
  for (const char* line : {"embed.weight [129280, 7168]",
                           "head.weight [129280, 7168]",
                           "norm.weight [7168]",
                           "hc_head_fn [4, 28672]",
                           "hc_head_base [4]",
                           "hc_head_scale [1]",
                           "layers.0.attn_norm.weight [7168]",
                           "layers.0.hc_attn_fn [24, 28672]",
                           "layers.0.hc_ffn_base [24]",
                           "layers.0.hc_ffn_scale [3]",
                           "layers.0.attn.wq_a.weight [1536, 7168]",
                           "layers.0.attn.wq_b.weight [65536, 1536]",
                           "layers.0.attn.wkv.weight [512, 7168]",
                           "layers.0.attn.wo_a.weight [16384, 4096]",
                           "layers.0.attn.wo_b.weight [7168, 16384]",
                           "layers.0.attn.attn_sink [128]",
                           "layers.0.attn.compressor.wkv.weight [512, 7168]",
                           "layers.0.attn.compressor.ape [128, 512]",
                           "layers.2.attn.compressor.wgate.weight [1024, 7168]",
                           "layers.2.attn.compressor.ape [4, 1024]",
                           "layers.2.attn.compressor.norm.weight [512]",
                           "layers.2.attn.indexer.wq_b.weight [8192, 1536]",
                           "layers.2.attn.indexer.weights_proj.weight [64, 7168]",
                           "layers.2.attn.indexer.compressor.wkv.weight [256, 7168]",
                           "layers.2.attn.indexer.compressor.ape [4, 256]",
                           "layers.2.attn.indexer.compressor.norm.weight [128]",
                           "layers.2.ffn.gate.tid2eid [129280, 6]",
                           "layers.3.ffn.gate.bias [384]",
                           "layers.60.ffn.experts.383.w1.weight [3072, 7168]",
                           "layers.60.ffn.experts.383.w2.weight [7168, 3072]",
                           "layers.60.ffn.shared_experts.w3.weight [3072, 7168]"})
    EXPECT_THAT(lines, testing::Contains(line));
  for (const char* absent : {"layers.0.attn.indexer.wq_b.weight [8192, 1536]", "layers.2.ffn.gate.bias [384]",
                             "layers.3.ffn.gate.tid2eid [129280, 6]", "layers.61.attn_norm.weight [7168]"})
    EXPECT_THAT(lines, testing::Not(testing::Contains(absent)));
}

// The published sizes, and what each layer type leaves in a page (bf16).
TEST(DeepSeekV4, CountsTheReleasedModels) {
  const ModelReport flash = inspect(config_of(v4_flash_json())), pro = inspect(config_of(v4_pro_json()));
  EXPECT_NEAR(static_cast<double>(flash.parameters) / 1e9, 284.3, 0.05);
  EXPECT_NEAR(static_cast<double>(flash.active_parameters) / 1e9, 13.8, 0.05);
  EXPECT_NEAR(static_cast<double>(flash.active_parameters_without_embedding) / 1e9, 13.3, 0.05);
  EXPECT_NEAR(static_cast<double>(pro.parameters) / 1e9, 1573, 0.5);
  EXPECT_NEAR(static_cast<double>(pro.active_parameters) / 1e9, 49.8, 0.05);
  EXPECT_NEAR(static_cast<double>(pro.active_parameters_without_embedding) / 1e9, 48.9, 0.05);
  EXPECT_EQ(flash.num_moe_layers, 43);
  // Window 512 values. Selected: a quarter of (512 + 128), and of F32 state 2 x 3 x (512 + 128) and two headers of 64
  // bytes in a page of 64. Global: a place of 512 values and 3 x 512 of F32 state, and a header, in a page.
  const int64_t window = 1024, selected = 1024 + 320 + 242, global = 1024 + 16 + 97;
  EXPECT_EQ(flash.cache_bytes_per_token_bf16, 2 * window + 21 * selected + 20 * global);
  EXPECT_EQ(pro.cache_bytes_per_token_bf16, 30 * selected + 31 * global);
  EXPECT_EQ(flash.cache_bytes_per_token_f32, 2 * 2048 + 21 * (2048 + 640 + 242) + 20 * (2048 + 32 + 97));
  ASSERT_EQ(flash.layer_types.size(), 3u);
  const std::vector<LayerTypeReport>& types = flash.layer_types;
  EXPECT_THAT((std::vector<int32_t>{types[0].num_layers, types[1].num_layers, types[2].num_layers}),
              ElementsAre(2, 21, 20));
  EXPECT_THAT((std::vector<int64_t>{types[0].cache_bytes_per_token_bf16, types[1].cache_bytes_per_token_bf16,
                                    types[2].cache_bytes_per_token_bf16}),
              ElementsAre(window, selected, global));
  EXPECT_EQ(flash.attention_flop_per_context_token, 20 * 64 * 2 * 1024 / 128);
  EXPECT_EQ(flash.index_flop_per_context_token, 21 * 64 * 2 * 128 / 4);

  const std::string text = to_text(flash);
  EXPECT_THAT(text, HasSubstr("cache                   58094 bytes a token (bf16: window 44032, selected 5376, block "
                              "keys 1344, global 320, selected state 4053, block key state 1029, global state 1940), "
                              "109166 (f32)\n"));
  EXPECT_THAT(text, HasSubstr("window layers           2, each 1024 bytes a token\n"));
  EXPECT_THAT(text, HasSubstr("selected layers         21, each 1586 bytes a token\n"));
  EXPECT_THAT(text, HasSubstr("global layers           20, each 1137 bytes a token\n"));
  EXPECT_EQ(json::parse(to_json(flash))["cache_groups"]["window"], 44032);
}

// Every figure of a model small enough to count by hand.
TEST(DeepSeekV4, CountsATinyModelByHand) {
  const ModelReport report = inspect(config_of(tiny_v4_json()));
  const int64_t embedding = 24 * 32, expert = 3 * 64 * 32, sites = 2 * 24 * 128;
  const int64_t attention = 8 * 32 + 32 * 8 + 16 * 32 + 8 * 16 + 32 * 8;
  const int64_t selected = 2 * 32 * 32 + 16 * 8 + 2 * 16 * 32, global = 2 * 16 * 32;
  const int64_t quantizable = embedding + 3 * attention + selected + global + 3 * (4 + 1) * expert;
  const int64_t routers = 3 * 4 * 32 + 2 * 32, wide = 3 * sites + 4 * 128, apes = 4 * 32 + 4 * 16 + 128 * 16;
  const int64_t vectors = 3 * (2 * (24 + 3) + 2 * 32 + 8 + 16 + 2) + (16 + 8) + 16 + 2 * 4 + 4 + 1 + 32;
  EXPECT_EQ(report.quantizable_parameters, quantizable);
  EXPECT_EQ(report.parameters, embedding + quantizable + routers + wide + apes + vectors);
  EXPECT_EQ(report.active_parameters, report.parameters - 3 * 2 * expert);
  EXPECT_EQ(report.flop_per_token, 2 * (quantizable - 3 * 2 * expert + routers + wide));
  for (const auto& [format, bytes] : report.weights_bytes) {
    if (format != WeightFormat::kBF16) continue;
    // Hyper-connections, apes and the table of token ids take four bytes each, everything else two.
    EXPECT_EQ(bytes, 2 * report.parameters + 2 * (wide + apes) + 4 * 24 * 2);
  }
}

TEST(DeepSeekV4, RefusesWhatKernelsDoNotTake) {
  const Backend none{.name = "none"};
  EXPECT_EQ(DeepSeekModel::check_supported(config_of(tiny_v4_json()), none).message(),
            "config.json: model_type: deepseek_v4 is not supported on device none");
  const Backend some{.name = "some", .window_attention = [](const WindowAttentionArgs&, OpContext&) {}};
  EXPECT_EQ(DeepSeekModel::check_supported(config_of(tiny_v4_json()), some).message(),
            "config.json: index_head_dim: expected a multiple of 16, found 8");
  json object = tiny_v4_json();
  object["index_head_dim"] = 16;
  EXPECT_TRUE(DeepSeekModel::check_supported(config_of(object), some).ok());
  object["head_dim"] = 24;
  const Status status = DeepSeekModel::check_supported(config_of(object), some);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "config.json: head_dim: expected a multiple of 16, found 24");
}

// Ids of 32 and 64 bits, and what cannot be an expert.
TEST(DeepSeekV4, ReadsTablesOfExperts) {
  const ModelConfig config = config_of(tiny_v4_json());
  const auto table_of = [&](const char* dtype, const std::string& bytes) {
    const TempDirectory directory;
    directory.write("model.safetensors",
                    SafetensorsWriter().add("layers.0.ffn.gate.tid2eid", dtype, {2, 2}, bytes).bytes());
    const Checkpoint checkpoint = *Checkpoint::open(directory.path(), config);
    return std::pair(checkpoint.read_ids("layers.0.ffn.gate.tid2eid"), HybridStack::check_tables(config, checkpoint));
  };
  const auto bytes_of = [](auto... numbers) {
    std::string bytes;
    for (auto number : {numbers...}) bytes.append(reinterpret_cast<const char*>(&number), sizeof(number));
    return bytes;
  };
  for (const auto& [ids, status] : {table_of("I32", bytes_of(3, 0, 1, 2)),
                                    table_of("I64", bytes_of(int64_t{3}, int64_t{0}, int64_t{1}, int64_t{2}))}) {
    EXPECT_THAT(ids, ElementsAre(3, 0, 1, 2));
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  EXPECT_EQ(table_of("I32", bytes_of(3, 0, 1, 4)).second.message(),
            "tensor \"layers.0.ffn.gate.tid2eid\": token 1: expected experts in [0, 4), found 4");
  const auto [ids, status] = table_of("I64", bytes_of(int64_t{1} << 40, int64_t{0}, int64_t{1}, int64_t{2}));
  EXPECT_EQ(ids[0], -1);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
}

TEST(PowerScales, E8M0IsAPowerOfTwo) {
  EXPECT_EQ(e8m0_to_f32(127), 1.0f);
  EXPECT_EQ(e8m0_to_f32(0), 0x1p-127f);
  EXPECT_EQ(e8m0_to_f32(254), 0x1p127f);
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(PowerScales, E2M1HasSixteenCodes) {
  std::vector<float> values;
  for (uint8_t code = 0; code < 16; ++code) values.push_back(e2m1_to_f32(code));
  EXPECT_THAT(values, ElementsAre(0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6));
  EXPECT_TRUE(std::signbit(values[8]));
}

// 3 x 64 weights: byte k holds columns 2k (low nibble) and 2k + 1; a scale for each 32 columns of a row.
TEST(DeepSeekV4, ReadsPackedExpertsRowByRow) {
  std::string codes;
  for (int i = 0; i < 3 * 32; ++i) codes += static_cast<char>(i * 37 + 11);
  const std::string scales = "\x7F\x80\x78\x7F\x64\x82";
  const TempDirectory directory;
  directory.write("model.safetensors",
                  SafetensorsWriter()
                      .add("odd", "U8", {1}, "x")
                      .add("layers.0.ffn.experts.0.w1.weight", "I8", {3, 32}, codes)
                      .add("layers.0.ffn.experts.0.w1.scale", "F8_E8M0", {3, 2}, scales)
                      .add("layers.0.attn.wkv.weight", "F8_E4M3", {2, 3}, std::string(6, 0x38))
                      .add("layers.0.attn.wkv.scale", "F8_E8M0", {1, 1}, std::string(1, static_cast<char>(129)))
                      .bytes());
  const Checkpoint checkpoint = *Checkpoint::open(directory.path(), config_of(tiny_v4_json()));
  const TensorSpec experts{"layers.0.ffn.experts.0.w1.weight", {3, 64}, Storage::kFp4};
  ASSERT_TRUE(checkpoint.expect(experts).ok()) << checkpoint.expect(experts).to_string();
  for (int64_t begin = 0; begin < 3; ++begin) {
    for (int64_t rows = 1; begin + rows <= 3; ++rows) {
      std::vector<float> values(static_cast<size_t>(rows * 64), -1);
      checkpoint.read_rows(experts.name, begin, rows, values.data());
      for (int64_t i = 0; i < rows * 64; ++i) {
        const int64_t row = begin + i / 64, column = i % 64;
        const auto byte = static_cast<uint8_t>(codes[static_cast<size_t>(row * 32 + column / 2)]);
        const auto scale = static_cast<uint8_t>(scales[static_cast<size_t>(row * 2 + column / 32)]);
        ASSERT_EQ(values[static_cast<size_t>(i)],
                  e2m1_to_f32(column % 2 == 0 ? byte & 15 : byte >> 4) * std::ldexp(1.0f, scale - 127))
            << row << " " << column;
      }
    }
  }
  // FP8 with the same short name of its scales.
  ASSERT_TRUE(checkpoint.expect("layers.0.attn.wkv.weight", {2, 3}).ok());
  std::vector<float> values(6);
  checkpoint.read_rows("layers.0.attn.wkv.weight", 0, 2, values.data());
  EXPECT_THAT(values, testing::Each(4.0f));
}

TEST(DeepSeekV4, RefusesExpertsOfTheWrongShape) {
  const auto message_of = [](SafetensorsWriter file, const TensorSpec& spec) {
    const TempDirectory directory;
    directory.write("model.safetensors", file.bytes());
    const Checkpoint checkpoint = *Checkpoint::open(directory.path(), config_of(tiny_v4_json()));
    const Status status = checkpoint.expect(spec);
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    return status.message().substr(status.message().find("tensor "));
  };
  const TensorSpec spec{"a.weight", {3, 64}, Storage::kFp4};
  const auto codes = [] { return SafetensorsWriter().add("a.weight", "I8", {3, 32}, std::string(96, 'x')); };
  EXPECT_EQ(message_of(codes(), spec), "tensor \"a.scale\": expected [3, 2], found no such tensor");
  EXPECT_EQ(message_of(codes().add("a.scale", "F8_E8M0", {3, 1}, "xxx"), spec),
            "tensor \"a.scale\": shape: expected [3, 2], found [3, 1]");
  EXPECT_EQ(message_of(codes().add("a.scale", "I8", {3, 2}, "xxxxxx"), spec),
            "tensor \"a.scale\": dtype: expected F32, BF16 or F8_E8M0, found I8");
  EXPECT_EQ(message_of(SafetensorsWriter().add("a.weight", "I8", {3, 64}, std::string(192, 'x')), spec),
            "tensor \"a.weight\": shape: expected [3, 32] bytes of two values, found [3, 64]");
  EXPECT_EQ(message_of(codes(), {"a.weight", {3, 32}}),
            "tensor \"a.weight\": dtype: expected one of F32, F16, BF16, F8_E4M3, found I8");
  EXPECT_EQ(message_of(SafetensorsWriter().add("t", "F32", {1, 1}, "xxxx"), {"t", {1, 1}, Storage::kTokenIds}),
            "tensor \"t\": dtype: expected I64 or I32, found F32");
}

// Random weights list what `inspect` and a later forward pass need.
TEST(DeepSeekV4, RandomCheckpointHasEveryTensor) {
  const ModelConfig config = config_of(tiny_v4_json());
  const Checkpoint checkpoint = Checkpoint::random(1, config);
  for (const TensorSpec& spec : required_tensors(config)) EXPECT_TRUE(checkpoint.expect(spec).ok()) << spec.name;
  const std::vector<int32_t> ids = checkpoint.read_ids("layers.0.ffn.gate.tid2eid");
  ASSERT_EQ(ids.size(), 24u * 2);
  std::vector<int> used(4);
  for (size_t token = 0; token < 24; ++token) {
    EXPECT_NE(ids[2 * token], ids[2 * token + 1]) << token;
    for (size_t i = 0; i < 2; ++i) ++used.at(static_cast<size_t>(ids[2 * token + i]));
  }
  EXPECT_THAT(used, testing::Each(testing::Gt(4)));
  EXPECT_TRUE(HybridStack::check_tables(config, checkpoint).ok());
}

}  // namespace
}  // namespace sluice
