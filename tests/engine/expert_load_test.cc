#include "engine/expert_load.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(ExpertLoad, CountsRowsByLayerAndExpert) {
  ExpertLoad load({1, 3}, 4);
  const std::vector<int32_t> experts = {0, 2, 2, 3};  // [2 rows, 2 chosen]
  const std::vector<float> weights(4, 0.5f);
  load.observer()->routed(1, 2, 2, experts.data(), weights.data());
  load.observer()->routed(3, 1, 2, experts.data(), weights.data());
  load.observer()->routed(3, 2, 2, experts.data(), weights.data());
  EXPECT_EQ(load.rows(), (std::vector<int64_t>{1, 0, 2, 1, 2, 0, 3, 1}));
  EXPECT_EQ(load.layers(), (std::vector<int32_t>{1, 3}));
}

TEST(ExpertLoadDeathTest, ALayerWithoutARouterIsOurBug) {
  ExpertLoad load({1, 3}, 4);
  const int32_t expert = 0;
  const float weight = 1;
  EXPECT_DEATH(load.observer()->routed(2, 1, 1, &expert, &weight), "layer 2 has no router");
}

}  // namespace
}  // namespace sluice
