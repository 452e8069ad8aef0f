// What stands in for the engine on CUDA where nvcc was not found.
#include "gpu/device_name.h"
#include "gpu/open.h"

namespace sluice {

Result<std::unique_ptr<GpuEngine>> open_gpu_engine(std::string_view device, const ModelConfig&, const Checkpoint&,
                                                   OpContext&, const GpuEngineOptions&) {
  SLUICE_RETURN_IF_ERROR(cuda_device_index(device).status());
  return failed_precondition("device: {} needs a build with CUDA: cmake found no nvcc when this one was configured",
                             device);
}

}  // namespace sluice
