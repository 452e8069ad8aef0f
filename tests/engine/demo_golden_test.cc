// The bundled model against the goldens recorded from an independent f32 implementation (tests/golden/demo-moe).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

const std::string kModel = source_file("configs/demo-moe");

nlohmann::json goldens() {
  std::ifstream file(source_file("tests/golden/demo-moe/goldens.json"));
  return nlohmann::json::parse(file);
}

std::unique_ptr<ModelRunner> runner_for(const std::string& backend, WeightFormat weights = WeightFormat::kAuto) {
  auto runner = ModelRunner::open(kModel, {.backend = backend, .weights = weights});
  SLUICE_CHECK(runner.ok(), "{}", runner.status().to_string());
  return std::move(runner).value();
}

class DemoGolden : public testing::TestWithParam<const Backend*> {};

TEST_P(DemoGolden, LogitsArgmaxAndExperts) {
  const auto runner = runner_for(GetParam()->name);
  const bool slow = std::string(GetParam()->name) == "ref";
  double worst = 0;
  const nlohmann::json golden = goldens();
  ASSERT_EQ(golden["prompts"].size(), 6u);
  for (const auto& prompt : golden["prompts"]) {
    const std::vector<TokenId> tokens = prompt["token_ids"];
    if (slow && tokens.size() > 40) continue;
    const auto size = static_cast<int32_t>(tokens.size());
    std::map<int32_t, std::vector<int32_t>> last_experts;
    const ForwardObserver observer{
        [&](int32_t layer, int64_t rows, int32_t top_k, const int32_t* experts, const float*) {
          last_experts[layer].assign(experts + (rows - 1) * top_k, experts + rows * top_k);
        }};
    const std::vector<float> logits = runner->compute(tokens, 0, size, TokenRole::kPrompt, &observer);
    for (const auto& entry : prompt["top5"]) {
      const float* row = logits.data() + int64_t{entry["position"]} * runner->config().vocab_size;
      EXPECT_EQ(std::max_element(row, row + runner->config().vocab_size) - row, int64_t{entry["ids"][0]})
          << prompt["name"];
      for (size_t i = 0; i < entry["ids"].size(); ++i) {
        const double expected = entry["logits"][i];
        const double relative = std::abs(row[size_t{entry["ids"][i]}] - expected) / std::abs(expected);
        worst = std::max(worst, relative);
        EXPECT_LE(relative, 1e-3) << prompt["name"] << " position " << entry["position"];
      }
    }
    for (const auto& [layer, experts] : prompt["experts_last_token"].items())
      EXPECT_EQ(last_experts.at(std::stoi(layer)), experts.get<std::vector<int32_t>>())
          << prompt["name"] << " layer " << layer;
  }
  RecordProperty("worst_relative_error", std::to_string(worst));
  std::printf("%s: worst relative error of a logit %.2e (bound 1e-3)\n", GetParam()->name, worst);
}

TEST_P(DemoGolden, GreedyContinuations) {
  const auto runner = runner_for(GetParam()->name);
  const bool slow = std::string(GetParam()->name) == "ref";
  const nlohmann::json golden = goldens();
  ASSERT_EQ(golden["prompts"].size(), 6u);
  for (const auto& prompt : golden["prompts"]) {
    const std::vector<TokenId> tokens = prompt["token_ids"];
    if (slow && tokens.size() > 10) continue;
    EXPECT_EQ(runner->greedy(tokens, 32), prompt["greedy_32"].get<std::vector<TokenId>>()) << prompt["name"];
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, DemoGolden, testing::ValuesIn(runnable_backends()), [](const auto& param_info) {
  std::string name = param_info.param->name;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace sluice
