// How the memory of a device is divided, before anything is allocated: weights, workspace, cache. What does not fit is
// refused at start, with numbers; in flight nothing is allocated, so nothing can run out.
#pragma once

#include <cstdint>
#include <string>

#include "sluice/status.h"

namespace sluice {

struct DeviceNeeds {
  int64_t weights_bytes = 0;
  int64_t workspace_bytes = 0;   // activations and staging of the largest step
  int64_t page_bytes = 0;        // of the cache
  int64_t cache_memory_mib = 0;  // wanted; 0: all that is left
  int32_t context_length = 0;    // tokens
};

struct DevicePlan {
  int64_t free_bytes = 0;  // before
  int64_t weights_bytes = 0, workspace_bytes = 0, cache_bytes = 0;
  int64_t headroom_bytes = 0;  // CUDA's own: code, graphs, what its pool rounds up
  int32_t num_pages = 0;
  int32_t pages_of_context = 0;

  std::string to_text() const;  // one line
};

// RESOURCE_EXHAUSTED naming what is short, and what would make it smaller.
Result<DevicePlan> plan_device_memory(const DeviceNeeds& needs, int64_t free_bytes);

}  // namespace sluice
