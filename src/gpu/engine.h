// The engine on CUDA as the rest of the program sees it: a device, the model on it, the executor over both, loaded
// together because one memory plan covers all. Owns all three.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "sluice/device.h"

#include "engine/step_executor.h"
#include "model/checkpoint.h"
#include "model/packed_weights.h"

namespace sluice {

struct GpuEngineOptions {
  WeightFormat weights = WeightFormat::kAuto;
  int32_t max_batch_tokens = 512;
  int32_t context_length = 4096;
  int64_t cache_memory_mib = 0;  // 0: all that is left
  LoadProgress progress;
  PackedCache* packed_cache = nullptr;
  // Layers of experts that stay with the host, for the kernels of `host_backend`; none: as few as leave room on the device
  // for the cache, and one whole context of it.
  std::optional<int32_t> host_layers = 0;
  const Backend* host_backend = nullptr;
};

class GpuEngine {
 public:
  virtual ~GpuEngine() = default;

  virtual StepExecutor& executor() = 0;
  virtual const std::string& device_name() const = 0;
  virtual const KvLayout& kv_layout() const = 0;
  virtual WeightFormat weights() const = 0;
  virtual int64_t weight_bytes() const = 0;  // on the device and with the host
  virtual int32_t num_pages() const = 0;
  virtual int32_t host_layers() const = 0;  // whose experts the host computes

  // Prints the memory plan and refuses what does not fit before anything is read. `context` lends threads for packing,
  // and for the host's experts.
  static Result<std::unique_ptr<GpuEngine>> load(std::unique_ptr<Device> device, const ModelConfig& config,
                                                 const Checkpoint& checkpoint, OpContext& context,
                                                 const GpuEngineOptions& options);
};

}  // namespace sluice
