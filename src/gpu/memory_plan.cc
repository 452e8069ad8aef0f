#include "gpu/memory_plan.h"

#include <algorithm>
#include <limits>

#include "sluice/kv_layout.h"

namespace sluice {

namespace {

constexpr double kMiB = 1 << 20;
// Kernels are loaded at their first launch and graphs live on the device: some tens of MiB each. A guess with room to
// spare until it is measured.
constexpr int64_t kMaxHeadroom = int64_t{512} << 20;

double mib(int64_t bytes) { return static_cast<double>(bytes) / kMiB; }

}  // namespace

std::string DevicePlan::to_text() const {
  return fmt::format(
      "device memory: {:.0f} MiB free = weights {:.0f} + workspace {:.0f} + cache {:.0f} ({} pages; one context is {})"
      " + headroom {:.0f} + unused {:.0f}",
      mib(free_bytes), mib(weights_bytes), mib(workspace_bytes), mib(cache_bytes), num_pages, pages_of_context,
      mib(headroom_bytes), mib(free_bytes - weights_bytes - workspace_bytes - cache_bytes - headroom_bytes));
}

Result<DevicePlan> plan_device_memory(const DeviceNeeds& needs, int64_t free_bytes) {
  DevicePlan plan{.free_bytes = free_bytes,
                  .weights_bytes = needs.weights_bytes,
                  .workspace_bytes = needs.workspace_bytes,
                  .headroom_bytes = std::min(free_bytes / 20, kMaxHeadroom),
                  .pages_of_context = (needs.context_length + kPageTokens - 1) / kPageTokens + 1};
  const int64_t left = free_bytes - plan.headroom_bytes - needs.weights_bytes - needs.workspace_bytes;
  if (free_bytes - plan.headroom_bytes < needs.weights_bytes)
    return resource_exhausted(
        "device memory: weights of {:.0f} MiB do not fit into {:.0f} MiB free less {:.0f} MiB of headroom; --weights"
        " int4-g128 needs the least",
        mib(needs.weights_bytes), mib(free_bytes), mib(plan.headroom_bytes));
  if (left < 0)
    return resource_exhausted(
        "device memory: the workspace of {:.0f} MiB does not fit beside {:.0f} MiB of weights into {:.0f} MiB free less"
        " {:.0f} MiB of headroom; a smaller --max-batch-tokens needs less",
        mib(needs.workspace_bytes), mib(needs.weights_bytes), mib(free_bytes), mib(plan.headroom_bytes));
  const int64_t wanted = needs.cache_memory_mib > 0 ? needs.cache_memory_mib << 20 : left;
  const int64_t pages = wanted / needs.page_bytes;
  if (pages < 2 || wanted > left)
    return resource_exhausted(
        "device memory: {} pages of {} bytes for the cache do not fit into the {:.0f} MiB left by {:.0f} MiB of weights"
        " and {:.0f} MiB of workspace; lower --cache-memory-mib or --max-batch-tokens, or take smaller --weights",
        std::max<int64_t>(pages, 2), needs.page_bytes, mib(left), mib(needs.weights_bytes), mib(needs.workspace_bytes));
  plan.num_pages = static_cast<int32_t>(std::min<int64_t>(pages, std::numeric_limits<int32_t>::max()));
  plan.cache_bytes = plan.num_pages * needs.page_bytes;
  return plan;
}

}  // namespace sluice
