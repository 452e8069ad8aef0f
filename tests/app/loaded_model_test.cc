// What options ask of a model's loading, and which contradict each other: those are refused before anything is read.
#include "app/loaded_model.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(LoadedModel, ExpertsStayWithTheHostOfADeviceOnly) {
  Options options;
  options.device = "cpu";
  options.experts_on = "cpu:1";
  EXPECT_EQ(LoadedModel::load(options).status().to_string(),
            "INVALID_ARGUMENT: experts_on: cpu:1 is for device cuda; device cpu has all experts where they are computed");
}

TEST(LoadedModel, LayersThatStayWithTheHost) {
  const ModelConfig config = ModelConfig::load(bundled_model().value()).value();
  const auto layers = [&](const char* where) {
    Options options;
    options.experts_on = where;
    return host_layers_of(options, config);
  };
  EXPECT_EQ(layers("device"), 0);
  EXPECT_EQ(layers("cpu:3"), 3);
  EXPECT_EQ(layers("cpu"), config.num_hidden_layers - config.first_k_dense_replace);
  EXPECT_EQ(layers("auto"), std::nullopt);
}

}  // namespace
}  // namespace sluice
