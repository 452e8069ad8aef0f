// What a device's memory is divided into, and what is refused.
#include "gpu/memory_plan.h"

#include <gmock/gmock.h>

namespace sluice {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = 1 << 20;

DeviceNeeds needs() {
  return {.weights_bytes = 400 * kMiB, .workspace_bytes = 100 * kMiB, .page_bytes = 2 * kMiB, .context_length = 1000};
}

TEST(DeviceMemoryPlan, GivesTheCacheWhatIsLeft) {
  const Result<DevicePlan> plan = plan_device_memory(needs(), 1000 * kMiB);
  ASSERT_TRUE(plan.ok()) << plan.status().to_string();
  EXPECT_EQ(plan->headroom_bytes, 50 * kMiB);  // a twentieth
  EXPECT_EQ(plan->num_pages, 225);             // (1000 - 50 - 400 - 100) / 2
  EXPECT_EQ(plan->pages_of_context, 17);
  EXPECT_THAT(plan->to_text(), HasSubstr("1000 MiB free = weights 400 + workspace 100 + cache 450 (225 pages"));
}

TEST(DeviceMemoryPlan, HeadroomHasALimit) {
  EXPECT_EQ(plan_device_memory(needs(), 100'000 * kMiB)->headroom_bytes, 512 * kMiB);
}

TEST(DeviceMemoryPlan, KeepsToTheWantedCache) {
  DeviceNeeds wanted = needs();
  wanted.cache_memory_mib = 21;
  EXPECT_EQ(plan_device_memory(wanted, 1000 * kMiB)->num_pages, 10);
}

TEST(DeviceMemoryPlan, RefusesWithNumbers) {
  const auto error = [](DeviceNeeds wanted, int64_t free) {
    const Status status = plan_device_memory(wanted, free).status();
    EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
    return status.message();
  };
  EXPECT_THAT(error(needs(), 400 * kMiB), HasSubstr("weights of 400 MiB do not fit into 400 MiB free"));
  EXPECT_THAT(error(needs(), 500 * kMiB), HasSubstr("workspace of 100 MiB does not fit beside 400 MiB"));
  EXPECT_THAT(error(needs(), 530 * kMiB), HasSubstr("2 pages of 2097152 bytes"));
  DeviceNeeds wanted = needs();
  wanted.cache_memory_mib = 451;
  EXPECT_THAT(error(wanted, 1000 * kMiB), HasSubstr("into the 450 MiB left"));
}

}  // namespace
}  // namespace sluice
