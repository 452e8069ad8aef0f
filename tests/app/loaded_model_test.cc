// Options that contradict each other are refused before anything is read.
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

}  // namespace
}  // namespace sluice
