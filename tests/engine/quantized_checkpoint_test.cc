// A model quantised to disk is the model quantised on load: not a bit of an answer changes.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "model/quantize_checkpoint.h"
#include "tests/model/temp_directory.h"
#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

const std::string kModel = source_file("configs/demo-moe");

std::vector<float> logits_of(const std::string& directory, WeightFormat weights, const std::string& backend) {
  const auto runner = ModelRunner::open(directory, {.backend = backend, .weights = weights});
  SLUICE_CHECK(runner.ok(), "{}", runner.status().to_string());
  const std::vector<TokenId> tokens = {0, 17, 300, 42, 4000, 5, 999, 1234, 77, 2048};
  std::vector<float> logits = (*runner)->compute(tokens, 0, 9, TokenRole::kPrompt);
  const std::vector<float> next = (*runner)->compute(tokens, 9, 10, TokenRole::kGenerated);
  logits.insert(logits.end(), next.begin(), next.end());
  return logits;
}

class QuantizedDemo : public testing::Test {
 protected:
  QuantizeReport quantize(const std::string& out, const QuantizeOptions& options) {
    const ModelConfig config = ModelConfig::load(kModel).value();
    const Checkpoint source = Checkpoint::open(kModel, config).value();
    std::ifstream file(kModel + "/config.json");
    const std::string json(std::istreambuf_iterator<char>(file), {});
    ThreadTeam team(2);
    const Result<QuantizeReport> report = quantize_checkpoint(source, config, json, out, team, options);
    SLUICE_CHECK(report.ok(), "{}", report.status().to_string());
    return *report;
  }

  TempDirectory directory_;
};

TEST_F(QuantizedDemo, OnDiskIsQuantisedOnLoadBitForBit) {
  for (const WeightFormat weights : {WeightFormat::kInt4G32, WeightFormat::kInt4G128, WeightFormat::kInt8}) {
    const std::string out = directory_.file(name(weights));
    quantize(out, {.weights = weights});
    EXPECT_EQ(logits_of(out, WeightFormat::kAuto, "auto"), logits_of(kModel, weights, "auto")) << name(weights);
  }
}

TEST_F(QuantizedDemo, ZeroPointsOnDiskAndOnLoadAgreeOnTheOracle) {
  const std::string out = directory_.file("z");
  quantize(out, {.weights = WeightFormat::kInt4G32Z});
  EXPECT_EQ(logits_of(out, WeightFormat::kAuto, "ref"), logits_of(kModel, WeightFormat::kInt4G32Z, "ref"));
}

TEST_F(QuantizedDemo, AKeptHeadStaysWide) {
  const std::string out = directory_.file("head");
  quantize(out, {.weights = WeightFormat::kInt4G32, .keep_head = true});
  const auto bytes = [](const std::string& directory, WeightFormat weights) {
    return ModelRunner::open(directory, {.weights = weights}).value()->model().weight_bytes();
  };
  // 4096 x 256 weights of 2 bytes instead of 0.5625 (4 bits and an f16 for 32 of them).
  EXPECT_EQ(bytes(out, WeightFormat::kAuto) - bytes(kModel, WeightFormat::kInt4G32), 4096 * 256 * 23 / 16);
  EXPECT_EQ(logits_of(out, WeightFormat::kInt4G32, "auto"), logits_of(kModel, WeightFormat::kInt4G32, "auto"))
      << "a format asked for by name holds for the head, too";
}

TEST_F(QuantizedDemo, FileIsWithinTheBudget) {
  const QuantizeReport report = quantize(directory_.file("size"), {.weights = WeightFormat::kInt4G32});
  const double all = static_cast<double>(report.bytes_out) / static_cast<double>(report.bytes_in);
  const double quantized =
      static_cast<double>(report.quantized_bytes_out) / static_cast<double>(report.quantized_bytes_in);
  std::printf("int4-g32: file %.4f of bf16's (at most 0.36), quantised tensors %.4f (at most 0.285)\n", all, quantized);
  EXPECT_LE(all, 0.36);
  EXPECT_LE(quantized, 0.285);
}

}  // namespace
}  // namespace sluice
