// Small random V2, V3, V3.2, V4 and Qwen3-MoE checkpoints against Hugging Face transformers (tests/golden/transformers has the
// script and the versions): logits, chosen experts and positions, hidden states, greedy continuations, in f32.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "model/rope.h"
#include "tests/support/model_runner.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

struct Case {
  const char* name;
  const Backend* backend;
};

class TransformersGolden : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const std::string directory = source_file(std::string("tests/golden/transformers/") + GetParam().name);
    std::ifstream file(directory + "/goldens.json");
    golden_ = nlohmann::json::parse(file);
    auto runner = ModelRunner::open(directory, {.backend = GetParam().backend->name});
    ASSERT_TRUE(runner.ok()) << runner.status().to_string();
    runner_ = std::move(runner).value();
    ASSERT_GE(golden_["prompts"].size(), 4u);
  }

  // |found - expected| over the largest |expected| of the row: the relative error of the row as a vector.
  static double relative_error(const float* found, const std::vector<double>& expected) {
    double worst = 0, peak = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::isfinite(found[i]) ? std::abs(found[i] - expected[i]) : INFINITY);
      peak = std::max(peak, std::abs(expected[i]));
    }
    return worst / peak;
  }

  nlohmann::json golden_;
  std::unique_ptr<ModelRunner> runner_;
};

void expect_angles(const RopeTable& rope, const std::vector<double>& expected, double factor) {
  ASSERT_EQ(rope.inv_freq().size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(rope.inv_freq()[i] / expected[i], 1, 3e-7) << i;
  std::vector<float> cos_sin(expected.size() * 2);
  rope.fill(std::vector<int32_t>{0}, cos_sin.data());
  EXPECT_NEAR(cos_sin[0], factor, 1e-6);
}

TEST_P(TransformersGolden, ScaleAndAngles) {
  const ModelConfig& config = runner_->config();
  if (config.hybrid) {
    EXPECT_NEAR(1 / std::sqrt(config.hybrid->head_dim), double{golden_["softmax_scale"]}, 1e-7);
    expect_angles(window_rope(config), golden_["rope_inv_freq"], golden_["rope_attention_factor"]);
    expect_angles(block_rope(config), golden_["compress_inv_freq"], golden_["compress_attention_factor"]);
    return;
  }
  EXPECT_NEAR(softmax_scale(config), double{golden_["softmax_scale"]}, 1e-7);
  expect_angles(RopeTable(config), golden_["rope_inv_freq"], golden_["rope_attention_factor"]);
}

TEST_P(TransformersGolden, LogitsExpertsAndHidden) {
  const int32_t vocab = runner_->config().vocab_size;
  double worst = 0;
  for (const auto& prompt : golden_["prompts"]) {
    SCOPED_TRACE(prompt["name"].get<std::string>());
    const std::vector<TokenId> tokens = prompt["token_ids"];
    const auto size = static_cast<int32_t>(tokens.size());
    std::map<int32_t, std::vector<std::vector<int32_t>>> experts;
    std::map<int32_t, std::vector<float>> last_weights;
    std::map<int32_t, std::vector<std::vector<int32_t>>> selected;
    const ForwardObserver observer{
        [&](int32_t layer, int64_t rows, int32_t top_k, const int32_t* ids, const float* weights) {
          for (int64_t row = 0; row < rows; ++row)
            experts[layer].emplace_back(ids + row * top_k, ids + (row + 1) * top_k);
          last_weights[layer].assign(weights + (rows - 1) * top_k, weights + rows * top_k);
        },
        [&](int32_t layer, std::span<const SequenceSpan> spans, int32_t top_k, const int32_t* positions) {
          for (const SequenceSpan& span : spans)
            for (int32_t t = span.position_begin; t < span.position_end; ++t, positions += top_k)
              selected[layer].emplace_back(positions, positions + top_k);
        }};
    const std::vector<float> logits = runner_->compute(tokens, 0, size, TokenRole::kPrompt, &observer);
    const double error = relative_error(logits.data() + int64_t{size - 1} * vocab, prompt["logits_last"]);
    worst = std::max(worst, error);
    EXPECT_LE(error, 1e-4);
    for (const auto& entry : prompt["top5"]) {
      const float* row = logits.data() + int64_t{entry["position"]} * vocab;
      EXPECT_EQ(std::max_element(row, row + vocab) - row, int64_t{entry["ids"][0]}) << entry["position"];
      for (size_t i = 0; i < entry["ids"].size(); ++i)
        EXPECT_NEAR(row[size_t{entry["ids"][i]}], double{entry["logits"][i]},
                    1e-4 * std::abs(double{entry["logits"][0]}));
    }
    ASSERT_EQ(experts.size(), prompt["experts"].size());
    for (const auto& layer : prompt["experts"]) {
      EXPECT_EQ(experts.at(layer["layer"]), layer["ids"].get<std::vector<std::vector<int32_t>>>()) << layer["layer"];
      if (layer.contains("weights_last")) {
        EXPECT_LE(relative_error(last_weights.at(layer["layer"]).data(), layer["weights_last"]), 1e-4);
      }
    }
    EXPECT_TRUE(prompt.contains("selected") || selected.empty());
    for (const auto& layer : prompt.value("selected", nlohmann::json::array()))
      EXPECT_EQ(selected[layer["layer"]], layer["positions"].get<std::vector<std::vector<int32_t>>>())
          << layer["layer"];
  }
  std::printf("%s on %s: worst relative error of the logits %.2e (bound 1e-4)\n", GetParam().name,
              GetParam().backend->name, worst);
}

TEST_P(TransformersGolden, GreedyContinuations) {
  for (const auto& prompt : golden_["prompts"])
    EXPECT_EQ(runner_->greedy(prompt["token_ids"], 24), prompt["greedy_24"].get<std::vector<TokenId>>())
        << prompt["name"];
}

// Both forms of attention are the same mathematics: computing the whole prompt in the generated role gives the same
// logits. (V3.2 has one form beyond index_topk, and the other two before; V4 has one.)
TEST_P(TransformersGolden, AbsorbedEqualsExpanded) {
  const std::vector<TokenId> tokens = golden_["prompts"][3]["token_ids"];
  const auto size = static_cast<int32_t>(tokens.size());
  const std::vector<float> logits = runner_->compute(tokens, 0, size, TokenRole::kGenerated);
  EXPECT_LE(relative_error(logits.data() + int64_t{size - 1} * runner_->config().vocab_size,
                           golden_["prompts"][3]["logits_last"]),
            1e-4);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* name : {"v2_lite", "v2_grouped", "v3_noaux", "v3_fp8", "v3_variant", "v32_index", "v32_fp8",
                           "v4_flash", "v4_fp4", "v4_variant", "qwen3_moe", "qwen3_variant"})
    for (const Backend* backend : runnable_backends())
      if (std::string_view(backend->name) != "ref") all.push_back({name, backend});
  for (const char* name : {"v3_noaux", "v32_index", "v4_variant", "qwen3_moe"}) all.push_back({name, runnable_backends()[0]});
  return all;
}

INSTANTIATE_TEST_SUITE_P(Cases, TransformersGolden, testing::ValuesIn(cases()), [](const auto& param_info) {
  std::string name = fmt::format("{}_{}", param_info.param.name, param_info.param.backend->name);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace sluice
