// Where a build with CUDA and one without differ: which of open_cuda.cc and open_none.cc was linked.
#pragma once

#include <string_view>

#include "gpu/engine.h"

namespace sluice {

// FAILED_PRECONDITION without CUDA in this build, without a driver, or without such a device: nothing was read then.
Result<std::unique_ptr<GpuEngine>> open_gpu_engine(std::string_view device, const ModelConfig& config,
                                                   const Checkpoint& checkpoint, OpContext& context,
                                                   const GpuEngineOptions& options);

}  // namespace sluice
