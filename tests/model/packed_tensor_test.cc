// Ready-made quantised matrices: what other tools packed means what those tools say (tests/golden/packed), every part is
// checked before anything is read, and what cannot be taken exactly is refused by name.
#include "model/packed_tensor.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "model/checkpoint.h"
#include "tests/model/safetensors_writer.h"
#include "tests/model/temp_directory.h"
#include "tests/model/test_configs.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kMatrix = "model.layers.0.mlp.down_proj.weight";
constexpr const char* kModule = "model.layers.0.mlp.down_proj.";

std::string decode_base64(const std::string& text) {
  const std::string alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes;
  uint32_t buffer = 0;
  int bits = 0;
  for (char c : text) {
    if (c == '=') break;
    buffer = buffer << 6 | static_cast<uint32_t>(alphabet.find(c));
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(buffer >> bits & 0xff);
  }
  return bytes;
}

const Json& golden() {
  static const Json cases = [] {
    std::ifstream file(source_file("tests/golden/packed/cases.json"));
    return Json::parse(file);
  }();
  return cases;
}

Json golden_case(const std::string& name) {
  for (const Json& entry : golden()["cases"])
    if (entry["name"] == name) return entry;
  ADD_FAILURE() << name;
  return {};
}

// The case as a checkpoint of one matrix; `change` may spoil it before it is written.
class OneMatrix {
 public:
  explicit OneMatrix(Json entry) {
    Json config = v2_lite_json();
    config["quantization_config"] = entry["quantization_config"];
    SafetensorsWriter writer;
    for (const auto& [part, tensor] : entry["tensors"].items())
      writer.add(kModule + part, tensor["dtype"], tensor["shape"].get<std::vector<int64_t>>(),
                 decode_base64(tensor["data"]));
    directory_.write("model.safetensors", writer.bytes());
    Result<ModelConfig> parsed = ModelConfig::parse(config.dump(), "config.json");
    if (!parsed.ok()) {
      status_ = parsed.status();
      return;
    }
    Result<Checkpoint> opened = Checkpoint::open(directory_.path(), *parsed);
    if (!opened.ok()) {
      status_ = opened.status();
      return;
    }
    checkpoint_ = std::make_unique<Checkpoint>(std::move(opened).value());
    status_ = checkpoint_->expect(kMatrix, {golden()["rows"], golden()["cols"]});
  }

  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const Status& status() const { return status_; }
  // The error without the directory, which changes from run to run.
  std::string error() const {
    std::string text = status_.to_string();
    for (size_t at = text.find(directory_.path()); at != std::string::npos; at = text.find(directory_.path()))
      text.replace(at, directory_.path().size(), "DIR");
    return text;
  }

 private:
  TempDirectory directory_;
  std::unique_ptr<Checkpoint> checkpoint_;
  Status status_;
};

TEST(PackedTensor, MeansWhatItsToolSays) {
  const int64_t rows = golden()["rows"], cols = golden()["cols"];
  ASSERT_EQ(golden()["cases"].size(), 7u);
  for (const Json& entry : golden()["cases"]) {
    const OneMatrix matrix(entry);
    ASSERT_TRUE(matrix.status().ok()) << entry["name"] << ": " << matrix.error();
    EXPECT_TRUE(matrix.checkpoint().has(kMatrix));
    EXPECT_TRUE(matrix.checkpoint().is_packed(kMatrix));
    const auto expected = entry["weights"].get<std::vector<float>>();
    // In pieces that begin anywhere, as heads do.
    for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, rows}, {3, 5}, {8, 8}, {15, 1}}) {
      std::vector<float> found(static_cast<size_t>(count * cols) + 1, 777);
      matrix.checkpoint().read_rows(kMatrix, begin, count, found.data());
      EXPECT_EQ(found.back(), 777);
      found.pop_back();
      const auto from = expected.begin() + begin * cols;
      EXPECT_EQ(found, std::vector<float>(from, from + count * cols)) << entry["name"] << " from row " << begin;
    }
  }
}

TEST(PackedTensor, FormatsOfTheirOwn) {
  const auto format = [](const std::string& name) { return OneMatrix(golden_case(name)).checkpoint().native_format(); };
  EXPECT_EQ(format("int4_group32"), WeightFormat::kInt4G32);
  EXPECT_EQ(format("int4_channel"), WeightFormat::kInt4G128);  // a row's scale is that of all its groups
  EXPECT_EQ(format("int8_channel"), WeightFormat::kInt8);
  EXPECT_EQ(format("int4_asymmetric"), WeightFormat::kInt4G32Z);
  EXPECT_EQ(format("awq"), WeightFormat::kInt4G32Z);
  EXPECT_EQ(format("gptq_v2"), WeightFormat::kInt4G32Z);
}

TEST(PackedTensor, PartsAreCheckedByNameShapeAndType) {
  const auto error = [](const std::string& name, const auto& change) {
    Json entry = golden_case(name);
    change(entry["tensors"]);
    return OneMatrix(entry).error();
  };
  const std::string module = kModule;
  EXPECT_EQ(error("int4_group32", [](Json& t) { t.erase("weight_scale"); }),
            "FAILED_PRECONDITION: DIR: tensor \"" + module + "weight_scale\": found no such tensor");
  EXPECT_EQ(error("int4_group32", [](Json& t) { t["weight_packed"]["shape"] = {8, 16}; }),
            "FAILED_PRECONDITION: DIR: DIR/model.safetensors: tensor \"" + module +
                "weight_packed\": shape: expected [16, 8], found [8, 16]");
  EXPECT_EQ(error("int4_group32", [](Json& t) { t["weight_scale"]["dtype"] = "I16"; }).substr(0, 9), "DATA_LOSS")
      << "an unknown dtype never gets here";
  EXPECT_EQ(error("int4_asymmetric", [](Json& t) { t.erase("weight_zero_point"); }),
            "FAILED_PRECONDITION: DIR: tensor \"" + module + "weight_zero_point\": expected [2, 2], found no such tensor");
  EXPECT_EQ(error("gptq", [](Json& t) { t["scales"]["shape"] = {16, 2}; }),
            "FAILED_PRECONDITION: DIR: DIR/model.safetensors: tensor \"" + module +
                "scales\": shape: expected 16 rows with a scale for each group of 32 inputs, found [16, 2]");
}

TEST(PackedTensor, GroupsThatOurFormatsCutAreNotTakenAsTheyAre) {
  // 64 inputs go into groups of 64 in the formats with larger ones, so a scale for each 32 of them does not fit.
  const auto exact = [](const std::string& name, int32_t declared) {
    Json entry = golden_case(name);
    entry["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = declared;
    const OneMatrix matrix(entry);
    EXPECT_TRUE(matrix.status().ok()) << matrix.error();
    return matrix.checkpoint().expect_exact(kMatrix, golden()["cols"]);
  };
  EXPECT_TRUE(exact("int4_group32", 32).ok());
  EXPECT_TRUE(exact("int4_channel", 128).ok());
  const Status refused = exact("int4_group32", 128);
  EXPECT_NE(refused.to_string().find("groups of 32 inputs cannot be taken as they are into int4-g128"),
            std::string::npos)
      << refused.to_string();
}

TEST(PackedTensor, ActOrderAndTheWrongGptqVersionAreRefused) {
  Json entry = golden_case("gptq");
  entry["tensors"]["g_idx"]["data"] = std::string(86 * 4, 'A').substr(0, 342) + "==";  // all inputs in group 0
  EXPECT_EQ(OneMatrix(entry).error(),
            "FAILED_PRECONDITION: DIR: DIR/model.safetensors: tensor \"" + std::string(kModule) +
                "g_idx\": expected input 32 in group 1, found 0: checkpoints in act-order (desc_act) are not supported");
  entry = golden_case("gptq");
  entry["quantization_config"]["sym"] = true;
  EXPECT_EQ(OneMatrix(entry).error().substr(0, 19), "FAILED_PRECONDITION");
  EXPECT_NE(OneMatrix(entry).error().find("expected zero point 8 of a symmetric checkpoint (sym), found"),
            std::string::npos);
}

}  // namespace
}  // namespace sluice
