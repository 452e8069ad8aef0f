// What 4 and 8 bits cost the bundled model, on text that it was not trained on: rounded on load, and written to disk
// with errors made good on text that the model itself made up (tests/golden/demo-moe/calibration.sh).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "app/calibration.h"
#include "app/files.h"
#include "app/perplexity.h"
#include "model/quantize_checkpoint.h"
#include "tests/model/temp_directory.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

const std::string kModel = source_file("configs/demo-moe");
const std::string kGoldens = source_file("tests/golden/demo-moe");

double perplexity(const std::string& model, WeightFormat weights, const std::string& file) {
  Options options;
  options.model = model;
  options.weights = weights;
  options.cache_enabled = false;
  options.cache_memory_mib = 64;
  const auto loaded = LoadedModel::load(options);
  SLUICE_CHECK(loaded.ok(), "{}", loaded.status().to_string());
  const Result<PredictedText> predicted = predict_text(**loaded, options, read_file(file).value());
  SLUICE_CHECK(predicted.ok(), "{}", predicted.status().to_string());
  return predicted->perplexity();
}

void write_calibrated(const std::string& output) {
  const ModelConfig config = ModelConfig::load(kModel).value();
  const Checkpoint source = Checkpoint::open(kModel, config).value();
  ThreadTeam team(2);
  const auto calibration =
      Calibration::open(kModel, config, source, "auto", team, read_file(kGoldens + "/calibration.txt").value());
  ASSERT_TRUE(calibration.ok()) << calibration.status().to_string();
  const auto factor = [&](const TensorSpec& tensor) {
    return (*calibration)->factor(tensor.name, tensor.shape[1]);
  };
  const Result<QuantizeReport> report =
      quantize_checkpoint(source, config, read_file(kModel + "/config.json").value(), output, team, {.factor = factor});
  ASSERT_TRUE(report.ok()) << report.status().to_string();
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"})
    std::filesystem::copy(kModel + "/" + file, output);
}

struct Text {
  std::string file;
  double int4_on_load;  // most of bf16's perplexity: as measured, rounded up
};

TEST(QuantizedPerplexity, StaysNearBf16) {
  std::vector<Text> texts = {{kGoldens + "/heldout.txt", 1.000}};
  if (const char* data = std::getenv("SLUICE_TEST_DATA")) {
    texts.push_back({std::string(data) + "/demo-moe/heldout_tinystories.txt", 1.017});
  } else {
    std::printf("skipped: heldout_tinystories.txt (a part of the public TinyStories); SLUICE_TEST_DATA names no folder\n");
  }
  const TempDirectory directory;
  const std::string calibrated = directory.file("calibrated");
  write_calibrated(calibrated);
  for (const Text& text : texts) {
    const double bf16 = perplexity(kModel, WeightFormat::kBF16, text.file);
    const auto expect = [&](const char* what, double found, double most) {
      std::printf("%s: %s %.4f of bf16's %.4f (at most %.3f)\n", text.file.c_str(), what, found / bf16, bf16, most);
      EXPECT_LE(found / bf16, most) << what;
    };
    expect("int8", perplexity(kModel, WeightFormat::kInt8, text.file), 1.001);
    expect("int4-g32 on load", perplexity(kModel, WeightFormat::kInt4G32, text.file), text.int4_on_load);
    expect("int4-g32 calibrated", perplexity(calibrated, WeightFormat::kAuto, text.file), 1.010);
  }
}

}  // namespace
}  // namespace sluice
