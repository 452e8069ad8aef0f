#include "model/checkpoint.h"

#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/random_weights.h"
#include "safetensors_writer.h"
#include "temp_directory.h"
#include "test_configs.h"
#include "tests/support/source_file.h"

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

ModelConfig tiny() {
  return config_of(tiny_json());
}

ModelConfig tiny_fp8(int rows, int cols) {
  json object = tiny_json();
  object["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {rows, cols}}};
  return config_of(object);
}

std::vector<float> read(const Checkpoint& checkpoint, const std::string& name, int64_t begin, int64_t rows,
                        int64_t cols) {
  std::vector<float> out(static_cast<size_t>(rows * cols), -1.0f);
  checkpoint.read_rows(name, begin, rows, out.data());
  return out;
}

void expect_message(const Status& status, StatusCode code, const std::string& message) {
  EXPECT_EQ(status.code(), code) << status.to_string();
  EXPECT_EQ(status.message(), message);
}

TEST(Checkpoint, WidensEveryFloatDtype) {
  const TempDirectory directory;
  directory.write("model.safetensors", SafetensorsWriter()
                                           .add("odd", "U8", {1}, "x")  // what follows is unaligned
                                           .add("f32", "F32", {3, 2}, std::vector<float>{1, 2, 3, 4, 5, 6})
                                           .add("f16", "F16", {3}, std::vector<uint16_t>{0x3c00, 0xc000, 0x3800})
                                           .add("bf16", "BF16", {1, 2}, std::vector<uint16_t>{0x3f80, 0xc040})
                                           .bytes());
  Result<Checkpoint> checkpoint = Checkpoint::open(directory.path(), tiny());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  EXPECT_TRUE(checkpoint->expect("f32", {3, 2}).ok());
  EXPECT_THAT(read(*checkpoint, "f32", 0, 3, 2), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(read(*checkpoint, "f32", 1, 1, 2), ElementsAre(3, 4));
  EXPECT_THAT(read(*checkpoint, "f16", 0, 3, 1), ElementsAre(1, -2, 0.5));
  EXPECT_THAT(read(*checkpoint, "f16", 2, 1, 1), ElementsAre(0.5));
  EXPECT_THAT(read(*checkpoint, "bf16", 0, 1, 2), ElementsAre(1, -3));
  EXPECT_EQ(checkpoint->dtype("f16"), DType::kF16);
  EXPECT_THAT(checkpoint->names(), ElementsAre("bf16", "f16", "f32", "odd"));
  EXPECT_TRUE(checkpoint->has("odd"));
  EXPECT_FALSE(checkpoint->has("even"));
  EXPECT_EQ(checkpoint->file_bytes(),
            static_cast<int64_t>(std::filesystem::file_size(directory.file("model.safetensors"))));

  const std::string path = directory.file("model.safetensors");
  expect_message(checkpoint->expect("f32", {2, 3}), StatusCode::kFailedPrecondition,
                 path + ": tensor \"f32\": shape: expected [2, 3], found [3, 2]");
  expect_message(checkpoint->expect("even", {2}), StatusCode::kFailedPrecondition,
                 directory.path() + ": tensor \"even\": expected [2], found no such tensor");
  expect_message(checkpoint->expect("odd", {1}), StatusCode::kFailedPrecondition,
                 path + ": tensor \"odd\": dtype: expected one of F32, F16, BF16, F8_E4M3, found U8");
}

TEST(CheckpointDeathTest, ReadingBeyondATensorIsABug) {
  const Checkpoint checkpoint = Checkpoint::random(1, tiny());
  float out[64];
  EXPECT_DEATH(checkpoint.read_rows("model.norm.weight", 11, 2, out), "rows \\[11, 13\\) of 12");
  EXPECT_DEATH(checkpoint.read_rows("nothing", 0, 1, out), "no tensor nothing");
}

// 5 x 7 weights in blocks of 2 x 3: partial blocks at both edges. Element (i, j) is 1, so its value is its scale.
TEST(Checkpoint, MultipliesBlockScalesUpToPartialEdges) {
  constexpr int64_t kRows = 5, kCols = 7;
  const std::vector<float> scales = {1, 2, 3, 4, 5, 6, 7, 8, 9};  // [3, 3]
  const std::vector<uint16_t> scales_bf16 = {0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100, 0x4110};
  const TempDirectory directory;
  directory.write("model.safetensors", SafetensorsWriter()
                                           .add("odd", "U8", {1}, "x")
                                           .add("a.weight", "F8_E4M3", {kRows, kCols}, std::string(35, 0x38))
                                           .add("a.weight_scale_inv", "F32", {3, 3}, scales)
                                           .add("b.weight", "F8_E4M3", {kRows, kCols}, std::string(35, 0x38))
                                           .add("b.weight_scale_inv", "BF16", {3, 3}, scales_bf16)
                                           .bytes());
  Result<Checkpoint> checkpoint = Checkpoint::open(directory.path(), tiny_fp8(2, 3));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  for (const char* name : {"a.weight", "b.weight"}) {
    ASSERT_TRUE(checkpoint->expect(name, {kRows, kCols}).ok());
    EXPECT_EQ(checkpoint->dtype(name), DType::kF8E4M3);
    for (int64_t begin = 0; begin < kRows; ++begin) {
      for (int64_t rows = 1; begin + rows <= kRows; ++rows) {
        const std::vector<float> values = read(*checkpoint, name, begin, rows, kCols);
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t j = 0; j < kCols; ++j)
            ASSERT_EQ(values[static_cast<size_t>(i * kCols + j)],
                      scales[static_cast<size_t>((begin + i) / 2 * 3 + j / 3)])
                << name << " row " << begin + i << " column " << j;
      }
    }
  }
}

TEST(Checkpoint, RefusesFp8WithoutFittingScales) {
  struct Case {
    SafetensorsWriter file;
    ModelConfig config;
    std::string message;
  };
  const auto weights = [] { return SafetensorsWriter().add("a.weight", "F8_E4M3", {5, 7}, std::string(35, 0x38)); };
  const ModelConfig fp8 = tiny_fp8(2, 3);
  const std::vector<Case> cases = {
      {weights(), fp8, "tensor \"a.weight_scale_inv\": expected [3, 3], found no such tensor"},
      {weights().add("a.weight_scale_inv", "F32", {2, 3}, std::string(24, 'x')), fp8,
       "tensor \"a.weight_scale_inv\": shape: expected [3, 3], found [2, 3]"},
      {weights().add("a.weight_scale_inv", "F16", {3, 3}, std::string(18, 'x')), fp8,
       "tensor \"a.weight_scale_inv\": dtype: expected F32, BF16 or F8_E8M0, found F16"},
      {weights(), tiny(),
       "tensor \"a.weight\": dtype F8_E4M3: expected quantization_config.weight_block_size in config.json, found none"},
  };
  for (const Case& bad : cases) {
    const TempDirectory directory;
    directory.write("model.safetensors", bad.file.bytes());
    const Result<Checkpoint> checkpoint = Checkpoint::open(directory.path(), bad.config);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
    expect_message(checkpoint->expect("a.weight", {5, 7}), StatusCode::kFailedPrecondition,
                   directory.file("model.safetensors") + ": " + bad.message);
  }
}

TEST(Checkpoint, ATiedHeadIsTheEmbedding) {
  json object = tiny_json();
  object["tie_word_embeddings"] = true;
  const ModelConfig tied = config_of(object);
  const TempDirectory directory;
  std::vector<float> values(24 * 12);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  directory.write("model.safetensors",
                  SafetensorsWriter().add("model.embed_tokens.weight", "F32", {24, 12}, values).bytes());
  Result<Checkpoint> checkpoint = Checkpoint::open(directory.path(), tied);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  ASSERT_TRUE(checkpoint->has("lm_head.weight"));
  ASSERT_TRUE(checkpoint->expect("lm_head.weight", {24, 12}).ok());
  EXPECT_EQ(read(*checkpoint, "lm_head.weight", 0, 24, 12), values);

  const Checkpoint random = Checkpoint::random(3, tied);
  EXPECT_EQ(read(random, "lm_head.weight", 0, 24, 12), read(random, "model.embed_tokens.weight", 0, 24, 12));
  const Checkpoint untied = Checkpoint::random(3, tiny());
  EXPECT_NE(read(untied, "lm_head.weight", 0, 24, 12), read(untied, "model.embed_tokens.weight", 0, 24, 12));
}

SafetensorsWriter shard(const std::string& tensor, float value) {
  return SafetensorsWriter().add(tensor, "F32", {1}, std::vector<float>{value});
}

TEST(Checkpoint, ReadsShardsThroughTheIndex) {
  const TempDirectory directory;
  directory.write("one.safetensors", shard("a", 1).add("hidden", "F32", {1}, std::vector<float>{7}).bytes());
  directory.write("two.safetensors", shard("b", 2).bytes());
  // A total that miscounts, or none, is no reason to refuse files that are whole.
  for (const char* metadata : {R"("metadata":{"total_size":8},)", R"("metadata":{"total_size":9},)",
                               R"("metadata":{},)", R"("metadata":null,)", ""}) {
    directory.write("model.safetensors.index.json",
                    std::string("{") + metadata + R"("weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
    Result<Checkpoint> checkpoint = Checkpoint::open(directory.path(), tiny());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
    EXPECT_THAT(checkpoint->names(), ElementsAre("a", "b"));
    EXPECT_THAT(read(*checkpoint, "a", 0, 1, 1), ElementsAre(1));
    EXPECT_THAT(read(*checkpoint, "b", 0, 1, 1), ElementsAre(2));
    EXPECT_EQ(checkpoint->file_bytes(),
              static_cast<int64_t>(std::filesystem::file_size(directory.file("one.safetensors")) +
                                   std::filesystem::file_size(directory.file("two.safetensors"))));
  }
}

TEST(Checkpoint, RefusesBadIndexes) {
  const TempDirectory directory;
  directory.write("one.safetensors", shard("a", 1).bytes());
  directory.write("cut.safetensors", shard("c", 1).bytes().substr(0, 20));
  const std::string index = directory.file("model.safetensors.index.json");
  const auto path_error = [&](const std::string& found) {
    return index + ": weight_map: \"a\": expected the name of a file beside the index, found " + found;
  };
  struct Case {
    std::string text;
    StatusCode code;
    std::string message;
  };
  const std::vector<Case> cases = {
      {R"({"weight_map":{"a":"none.safetensors"}})", StatusCode::kNotFound,
       index + ": weight_map: \"a\": " + directory.file("none.safetensors") + ": no such file"},
      {R"({"weight_map":{"b":"one.safetensors"}})", StatusCode::kDataLoss,
       index + ": weight_map: \"b\": expected in " + directory.file("one.safetensors") +
           ", found no such tensor there"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", StatusCode::kInvalidArgument,
       path_error("\"../one.safetensors\"")},
      {R"({"weight_map":{"a":"/etc/passwd"}})", StatusCode::kInvalidArgument, path_error("\"/etc/passwd\"")},
      {R"({"weight_map":{"a":".."}})", StatusCode::kInvalidArgument, path_error("\"..\"")},
      {R"({"weight_map":{"a":""}})", StatusCode::kInvalidArgument, path_error("\"\"")},
      {R"({"weight_map":{"a":"one.safetensors\u0000"}})", StatusCode::kInvalidArgument,
       path_error("\"one.safetensors\\u0000\"")},
      {R"({"weight_map":{"a":7}})", StatusCode::kInvalidArgument, path_error("number")},
      {R"({"weight_map":[]})", StatusCode::kInvalidArgument,
       index + ": weight_map: expected an object or null, found []"},
      {R"({"weight_map":null})", StatusCode::kInvalidArgument, index + ": weight_map: expected an object, found null"},
      {"{}", StatusCode::kInvalidArgument, index + ": weight_map: expected an object, found no such key"},
      {"{", StatusCode::kInvalidArgument, index + ": expected JSON, found a syntax error at byte 2"},
      {R"({"metadata":{"total_size":-1},"weight_map":{}})", StatusCode::kInvalidArgument,
       index + ": metadata: total_size: expected a non-negative number, found -1"},
      {R"({"metadata":{"total_size":"4"},"weight_map":{"a":"one.safetensors"}})", StatusCode::kInvalidArgument,
       index + ": metadata: total_size: expected a non-negative number, found \"4\""},
  };
  for (const Case& bad : cases) {
    directory.write("model.safetensors.index.json", bad.text);
    const Result<Checkpoint> checkpoint = Checkpoint::open(directory.path(), tiny());
    ASSERT_FALSE(checkpoint.ok()) << bad.text;
    expect_message(checkpoint.status(), bad.code, bad.message);
  }
  directory.write("model.safetensors.index.json", R"({"weight_map":{"c":"cut.safetensors"}})");
  const Status cut = Checkpoint::open(directory.path(), tiny()).status();
  EXPECT_EQ(cut.code(), StatusCode::kDataLoss);
  EXPECT_THAT(cut.message(), HasSubstr("weight_map: \"c\": " + directory.file("cut.safetensors") + ": header length"));
}

TEST(Checkpoint, RefusesAFolderWithoutWeights) {
  const TempDirectory directory;
  expect_message(Checkpoint::open(directory.path(), tiny()).status(), StatusCode::kNotFound,
                 directory.path() + ": expected model.safetensors or model.safetensors.index.json, found neither");
  directory.write("model.safetensors", "");
  expect_message(Checkpoint::open(directory.path(), tiny()).status(), StatusCode::kDataLoss,
                 directory.file("model.safetensors") + ": expected at least 8 bytes, found 0");
}

TEST(Checkpoint, TheDemoModelHasEveryTensorOfItsArchitecture) {
  const std::string directory = source_file("configs/demo-moe");
  const Result<ModelConfig> config = ModelConfig::load(directory);
  ASSERT_TRUE(config.ok()) << config.status().to_string();
  const Result<Checkpoint> checkpoint = Checkpoint::open(directory, *config);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status().to_string();
  const std::vector<TensorSpec> specs = required_tensors(*config);
  for (const TensorSpec& spec : specs) {
    const Status status = checkpoint->expect(spec.name, spec.shape);
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  EXPECT_EQ(checkpoint->names().size(), specs.size());
}

TEST(Checkpoint, RandomHasWhatTheArchitectureAsksFor) {
  const ModelConfig config = tiny();
  const Checkpoint checkpoint = Checkpoint::random(5, config);
  for (const TensorSpec& spec : required_tensors(config)) {
    EXPECT_TRUE(checkpoint.expect(spec.name, spec.shape).ok()) << spec.name;
    EXPECT_EQ(checkpoint.dtype(spec.name), spec.shape.rank == 1 ? DType::kF32 : DType::kBF16);
  }
  EXPECT_TRUE(checkpoint.names().empty());
  EXPECT_EQ(checkpoint.file_bytes(), 0);
  expect_message(checkpoint.expect("model.norm.weight", {13}), StatusCode::kFailedPrecondition,
                 "random weights: tensor \"model.norm.weight\": shape: expected [13], found [12]");
  expect_message(
      checkpoint.expect("model.layers.7.input_layernorm.weight", {12}), StatusCode::kFailedPrecondition,
      "random weights: tensor \"model.layers.7.input_layernorm.weight\": expected [12], found no such tensor");

  // Rows are the elements of the whole tensor, whoever reads them and how.
  const std::string name = "model.layers.1.mlp.experts.3.down_proj.weight";  // [12, 6]
  std::vector<float> expected(12 * 6);
  random_values(5, name, 0, 72, expected.data());
  EXPECT_EQ(read(checkpoint, name, 0, 12, 6), expected);
  EXPECT_EQ(read(checkpoint, name, 4, 2, 6), std::vector<float>(expected.begin() + 24, expected.begin() + 36));
}

// Run under ThreadSanitizer to mean something.
TEST(Checkpoint, ReadsFromManyThreads) {
  const std::string directory = source_file("configs/demo-moe");
  const ModelConfig config = *ModelConfig::load(directory);
  const Checkpoint checkpoint = *Checkpoint::open(directory, config);
  const std::vector<float> expected = read(checkpoint, "lm_head.weight", 0, 4096, 256);
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (auto& values : found)
    threads.emplace_back([&checkpoint, &values] { values = read(checkpoint, "lm_head.weight", 0, 4096, 256); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& values : found) EXPECT_EQ(values, expected);
}

}  // namespace
}  // namespace sluice
