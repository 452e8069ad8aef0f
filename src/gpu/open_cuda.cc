// The engine on the machine's CUDA devices. Linked where nvcc was found.
#include "gpu/cuda_device.h"
#include "gpu/cuda_runtime.h"
#include "gpu/device_name.h"
#include "gpu/open.h"

namespace sluice {

Result<std::unique_ptr<GpuEngine>> open_gpu_engine(std::string_view device, const ModelConfig& config,
                                                   const Checkpoint& checkpoint, OpContext& context,
                                                   const GpuEngineOptions& options) {
  SLUICE_ASSIGN_OR_RETURN(const int index, cuda_device_index(device));
  SLUICE_ASSIGN_OR_RETURN(std::unique_ptr<Device> opened, CudaDevice::open(cuda_runtime(), index));
  return GpuEngine::load(std::move(opened), config, checkpoint, context, options);
}

}  // namespace sluice
