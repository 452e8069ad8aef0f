#include "gpu/engine.h"

#include "sluice/log.h"

#include "gpu/executor.h"
#include "gpu/memory_plan.h"

namespace sluice {

namespace {

class LoadedEngine final : public GpuEngine {
 public:
  LoadedEngine(std::unique_ptr<Device> device, std::unique_ptr<GpuModel> model, std::unique_ptr<GpuExecutor> executor,
               int32_t num_pages)
      : device_(std::move(device)),
        model_(std::move(model)),
        executor_(std::move(executor)),
        num_pages_(num_pages) {}

  StepExecutor& executor() override { return *executor_; }
  const std::string& device_name() const override { return device_->properties().name; }
  const KvLayout& kv_layout() const override { return model_->kv_layout(); }
  WeightFormat weights() const override { return model_->weights(); }
  int64_t weight_bytes() const override { return model_->weight_bytes(); }
  int32_t num_pages() const override { return num_pages_; }

 private:
  std::unique_ptr<Device> device_;  // outlives what is on it
  std::unique_ptr<GpuModel> model_;
  std::unique_ptr<GpuExecutor> executor_;
  int32_t num_pages_;
};

}  // namespace

Result<std::unique_ptr<GpuEngine>> GpuEngine::load(std::unique_ptr<Device> device, const ModelConfig& config,
                                                   const Checkpoint& checkpoint, OpContext& context,
                                                   const GpuEngineOptions& options) {
  SLUICE_RETURN_IF_ERROR(GpuModel::check_supported(config));
  const WeightFormat weights =
      options.weights == WeightFormat::kAuto ? checkpoint.native_format() : options.weights;
  SLUICE_RETURN_IF_ERROR(GpuModel::check_weights(weights));
  const DeviceProperties& found = device->properties();
  const StepLimits limits{.max_rows = options.max_batch_tokens,
                          .context_length = options.context_length,
                          .multiprocessors = found.multiprocessors,
                          .shared_bytes_of_block = found.shared_bytes_of_block};
  SLUICE_ASSIGN_OR_RETURN(const int64_t free, device->free_bytes());
  SLUICE_ASSIGN_OR_RETURN(
      const DevicePlan plan,
      plan_device_memory({.weights_bytes = GpuModel::planned_weight_bytes(config, weights),
                          .workspace_bytes = GpuModel::planned_workspace_bytes(config, weights, limits) +
                                             GpuExecutor::planned_bytes(config),
                          .page_bytes = GpuModel::page_layout(config).bytes_per_page(),
                          .cache_memory_mib = options.cache_memory_mib,
                          .context_length = options.context_length},
                         free));
  log_info("{}: {}", found.name, plan.to_text());
  SLUICE_ASSIGN_OR_RETURN(std::unique_ptr<GpuModel> model,
                          GpuModel::load(config, checkpoint, *device, context,
                                         {.weights = options.weights,
                                          .max_batch_tokens = options.max_batch_tokens,
                                          .context_length = options.context_length,
                                          .progress = options.progress,
                                          .packed_cache = options.packed_cache}));
  SLUICE_ASSIGN_OR_RETURN(std::unique_ptr<GpuExecutor> executor,
                          GpuExecutor::create(*model, *device, {.num_pages = plan.num_pages}));
  return std::unique_ptr<GpuEngine>(
      new LoadedEngine(std::move(device), std::move(model), std::move(executor), plan.num_pages));
}

}  // namespace sluice
