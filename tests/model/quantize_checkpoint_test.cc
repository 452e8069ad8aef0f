// A quantised checkpoint on disk: what is read back is what the definition says, whole files of an interrupted run are
// kept and half ones are not believed, and nothing foreign is mixed in.
#include "model/quantize_checkpoint.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "sluice/quantize.h"

#include "tests/model/temp_directory.h"
#include "tests/model/test_configs.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

// Every width is a multiple of 32; that of the dense block, 160, is no multiple of 64.
nlohmann::json small_json() {
  nlohmann::json json = tiny_json();
  json.update({{"vocab_size", 40},
               {"hidden_size", 128},
               {"intermediate_size", 160},
               {"moe_intermediate_size", 64},
               {"kv_lora_rank", 32},
               {"qk_nope_head_dim", 16},
               {"qk_rope_head_dim", 8},
               {"v_head_dim", 48}});
  return json;
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory))
    files[entry.path().filename().string()] = read(entry.path().string());
  return files;
}

class QuantizeCheckpoint : public testing::Test {
 protected:
  Result<QuantizeReport> run(const QuantizeOptions& options) {
    return quantize_checkpoint(source_, config_, small_json().dump(), out(), team_, options);
  }
  QuantizeReport run_ok(const QuantizeOptions& options) {
    const Result<QuantizeReport> report = run(options);
    EXPECT_TRUE(report.ok()) << report.status().to_string();
    return report.ok() ? *report : QuantizeReport();
  }
  std::string out() const { return directory_.file("out"); }

  std::vector<float> rows_of(const Checkpoint& checkpoint, const TensorSpec& spec) const {
    std::vector<float> values(static_cast<size_t>(spec.shape.num_elements()));
    checkpoint.read_rows(spec.name, 0, spec.shape[0], values.data());
    return values;
  }

  // The definition, applied to the source.
  std::vector<float> rounded(const TensorSpec& spec, WeightFormat format) const {
    std::vector<float> values = rows_of(source_, spec);
    if (!is_quantized(format)) {
      for (float& value : values) value = bf16_to_f32(f32_to_bf16(value));
      return values;
    }
    const int32_t group = group_size(format, spec.shape[1]);
    std::vector<int8_t> codes(static_cast<size_t>(group));
    for (size_t begin = 0; begin < values.size(); begin += codes.size()) {
      const GroupGrid grid = quantize_group(format, values.data() + begin, group, codes.data());
      for (size_t i = 0; i < codes.size(); ++i)
        values[begin + i] = grid.scale * static_cast<float>(codes[i] - grid.zero);
    }
    return values;
  }

  ThreadTeam team_{2};
  TempDirectory directory_;
  const ModelConfig config_ = ModelConfig::parse(small_json().dump(), "config.json").value();
  const Checkpoint source_ = Checkpoint::random(3, config_);
};

bool is_wide(const std::string& name) {
  return name.ends_with("norm.weight") || name.ends_with("embed_tokens.weight") || name.ends_with("mlp.gate.weight") ||
         name.ends_with("kv_b_proj.weight");
}

TEST_F(QuantizeCheckpoint, IsReadBackAsTheDefinitionSays) {
  for (const WeightFormat format : {WeightFormat::kInt4G32, WeightFormat::kInt4G128, WeightFormat::kInt8,
                                    WeightFormat::kInt4G32Z, WeightFormat::kInt4G64Z}) {
    for (const bool keep_head : {false, true}) {
      fs::remove_all(out());
      const QuantizeReport report = run_ok({.weights = format, .keep_head = keep_head, .made_from = "x"});
      EXPECT_EQ(report.shards, 1);
      const Result<ModelConfig> config = ModelConfig::load(out());
      ASSERT_TRUE(config.ok()) << config.status().to_string();
      const Result<Checkpoint> written = Checkpoint::open(out(), *config);
      ASSERT_TRUE(written.ok()) << written.status().to_string();
      EXPECT_EQ(written->native_format(), format);
      EXPECT_EQ(written->file_bytes(), report.bytes_out);
      double missed = 0, total = 0;
      for (const TensorSpec& spec : required_tensors(config_)) {
        ASSERT_TRUE(written->expect(spec.name, spec.shape).ok()) << written->expect(spec.name, spec.shape).to_string();
        const bool wide = is_wide(spec.name) || (keep_head && spec.name == "lm_head.weight");
        const WeightFormat kept = wide ? WeightFormat::kBF16 : storage_format(format, spec.shape[1]);
        EXPECT_EQ(written->is_packed(spec.name), is_quantized(kept)) << spec.name;
        const std::vector<float> found = rows_of(*written, spec);
        ASSERT_EQ(found, rounded(spec, kept)) << name(format) << " " << spec.name;
        const std::vector<float> meant = rows_of(source_, spec);
        if (!is_quantized(kept)) continue;
        for (size_t i = 0; i < meant.size(); ++i) {
          missed += std::pow(static_cast<double>(meant[i]) - found[i], 2);
          total += std::pow(static_cast<double>(meant[i]), 2);
        }
      }
      EXPECT_NEAR(report.relative_error, std::sqrt(missed / total), 1e-9);
    }
  }
}

TEST_F(QuantizeCheckpoint, SizesAreWithinTheBudget) {
  const QuantizeReport report = run_ok({.weights = WeightFormat::kInt4G32, .made_from = "x"});
  // 4 bits and a 16-bit scale for 32 weights; each matrix has 16 bytes of shape, which tiny ones feel.
  EXPECT_NEAR(static_cast<double>(report.quantized_bytes_out) / static_cast<double>(report.quantized_bytes_in), 0.28125,
              0.002);
}

TEST_F(QuantizeCheckpoint, KeepsWholeShardsAndWritesHalfOnesAgain) {
  const QuantizeOptions options{.weights = WeightFormat::kInt4G32Z, .shard_bytes = 20000, .made_from = "x"};
  const QuantizeReport first = run_ok(options);
  ASSERT_GE(first.shards, 4);
  EXPECT_EQ(first.shards_kept, 0);
  const auto files = contents(out());
  const auto shard = [&](int index) { return fmt::format("{}/model-{:05}-of-{:05}.safetensors", out(), index, first.shards); };

  // As if the power had gone: one file cut short, one with a byte that changed, one under its temporary name.
  fs::resize_file(shard(1), fs::file_size(shard(1)) - 1);
  std::string damaged = read(shard(2));
  damaged[damaged.size() - 5] = static_cast<char>(damaged[damaged.size() - 5] ^ 1);
  std::ofstream(shard(2), std::ios::binary) << damaged;
  fs::rename(shard(3), shard(3) + ".part");
  fs::remove(out() + "/config.json");

  const QuantizeReport second = run_ok(options);
  EXPECT_EQ(second.shards_kept, first.shards - 3);
  EXPECT_EQ(second.relative_error, first.relative_error);
  EXPECT_EQ(contents(out()), files);
  EXPECT_EQ(run_ok(options).shards_kept, first.shards);

  // Of another source, or made with other options: nothing is kept.
  QuantizeOptions other = options;
  other.made_from = "y";
  EXPECT_EQ(run_ok(other).shards_kept, 0);
}

TEST_F(QuantizeCheckpoint, RefusesWhatWouldBeMixedUp) {
  fs::create_directories(out());
  std::ofstream(out() + "/model-00001-of-00099.safetensors") << "x";
  EXPECT_EQ(run({.made_from = "x"}).status().to_string(),
            "FAILED_PRECONDITION: " + out() +
                ": expected an empty directory or an unfinished run with the same options, found "
                "model-00001-of-00099.safetensors");
  EXPECT_EQ(run({.weights = WeightFormat::kBF16}).status().to_string(),
            "INVALID_ARGUMENT: weights: expected int8 or one of the int4 formats, found bf16");
}

TEST_F(QuantizeCheckpoint, RefusesAQuantisedSource) {
  run_ok({.made_from = "x"});
  const ModelConfig config = ModelConfig::load(out()).value();
  const Checkpoint written = Checkpoint::open(out(), config).value();
  EXPECT_EQ(quantize_checkpoint(written, config, read(out() + "/config.json"), directory_.file("twice"), team_, {})
                .status()
                .to_string(),
            "FAILED_PRECONDITION: the checkpoint is quantised already; start from its BF16, F16, F32 or FP8 original");
}

TEST_F(QuantizeCheckpoint, ConfigNamesGroupsAndWhatIsIgnored) {
  run_ok({.weights = WeightFormat::kInt4G128, .keep_head = true, .made_from = "x"});
  const auto config = nlohmann::json::parse(read(out() + "/config.json"));
  const auto& quantization = config["quantization_config"];
  EXPECT_EQ(config["torch_dtype"], "bfloat16");
  EXPECT_EQ(quantization["config_groups"]["group_0"]["weights"]["group_size"], 128);
  EXPECT_EQ(quantization["config_groups"]["group_0"]["targets"][0], "Linear");
  // 160 and 96 inputs take groups of 32, 64 inputs groups of 64.
  const auto targets = [&](const char* group) {
    return quantization["config_groups"][group]["targets"].get<std::vector<std::string>>();
  };
  EXPECT_EQ(targets("group_1"),
            (std::vector<std::string>{"model.layers.0.self_attn.o_proj", "model.layers.0.mlp.down_proj",
                                      "model.layers.1.self_attn.o_proj"}));
  EXPECT_EQ(targets("group_2")[0], "model.layers.1.mlp.experts.0.down_proj");
  EXPECT_EQ(quantization["ignore"],
            (std::vector<std::string>{"model.layers.0.self_attn.kv_b_proj", "model.layers.1.self_attn.kv_b_proj",
                                      "model.layers.1.mlp.gate", "lm_head"}));
}

// The plan does not know V4's tensors: their tables and streams are nothing to quantise.
TEST_F(QuantizeCheckpoint, RefusesV4) {
  const Result<ModelConfig> config = ModelConfig::parse(tiny_v4_json().dump(), "config.json");
  ASSERT_TRUE(config.ok());
  const Result<QuantizeReport> report =
      quantize_checkpoint(Checkpoint::random(1, *config), *config, tiny_v4_json().dump(), out(), team_, {});
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.status().code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(report.status().message(),
            "config.json: model_type: deepseek_v4 is quantised while it is loaded (weights), not written");
}

}  // namespace
}  // namespace sluice
