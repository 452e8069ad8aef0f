#include "gpu/engine.h"

#include <functional>

#include "sluice/log.h"

#include "base/machine_limits.h"
#include "gpu/executor.h"
#include "gpu/memory_plan.h"

namespace sluice {

namespace {

class LoadedEngine final : public GpuEngine {
 public:
  LoadedEngine(std::unique_ptr<Device> device, std::unique_ptr<GpuModel> model, std::unique_ptr<GpuExecutor> executor,
               int32_t num_pages, int32_t host_layers)
      : device_(std::move(device)),
        model_(std::move(model)),
        executor_(std::move(executor)),
        num_pages_(num_pages),
        host_layers_(host_layers) {}

  StepExecutor& executor() override { return *executor_; }
  const std::string& device_name() const override { return device_->properties().name; }
  const KvLayout& kv_layout() const override { return model_->kv_layout(); }
  WeightFormat weights() const override { return model_->weights(); }
  int64_t weight_bytes() const override { return model_->weight_bytes() + model_->host_weight_bytes(); }
  int32_t num_pages() const override { return num_pages_; }
  int32_t host_layers() const override { return host_layers_; }

 private:
  std::unique_ptr<Device> device_;  // outlives what is on it
  std::unique_ptr<GpuModel> model_;
  std::unique_ptr<GpuExecutor> executor_;
  int32_t num_pages_, host_layers_;
};

using PlanWith = std::function<Result<DevicePlan>(int32_t host_layers)>;

// What was asked for, or the fewest layers with which the device has room.
Result<int32_t> choose_host_layers(const ModelConfig& config, std::optional<int32_t> asked, const PlanWith& plan_with) {
  const int32_t all = moe_layers(config);
  if (asked) {
    if (*asked > all)
      return invalid_argument("experts_on: cpu:{}: the model has {} layers of experts", *asked, all);
    return *asked;
  }
  for (int32_t layers = 0; layers < all; ++layers) {
    const Result<DevicePlan> plan = plan_with(layers);
    if (plan.ok() && plan->num_pages >= plan->pages_of_context) return layers;
  }
  return all;
}

Status check_host(const ModelConfig& config, const Checkpoint& checkpoint, int32_t host_layers, OpContext& context,
                  const GpuEngineOptions& options) {
  constexpr double kMiB = 1 << 20;
  const Backend& backend = *options.host_backend;
  int64_t bytes = HostExperts::planned_activation_bytes(config, options.max_batch_tokens);
  for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer)
    if (GpuModel::is_hosted(config, layer, host_layers))
      bytes += HostExperts::planned_bytes(config, layer, checkpoint, options.weights, backend, context);
  const int64_t free = available_memory();
  log_info("experts: those of {} of {} layers stay with the host ({}): {:.0f} MiB, {:.0f} MiB free", host_layers,
           moe_layers(config), backend.name, static_cast<double>(bytes) / kMiB, static_cast<double>(free) / kMiB);
  if (bytes <= free) return {};
  return resource_exhausted("experts_on: the experts of {} layers take {:.0f} MiB of the host's memory, of which {:.0f}"
                            " MiB are free; fewer layers (cpu:N) or smaller --weights need less",
                            host_layers, static_cast<double>(bytes) / kMiB, static_cast<double>(free) / kMiB);
}

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
  const auto plan_with = [&](int32_t host_layers) {
    const int64_t of_host = host_layers > 0 ? HostExperts::device_bytes(options.max_batch_tokens) : 0;
    return plan_device_memory({.weights_bytes = GpuModel::planned_weight_bytes(config, checkpoint, options.weights, host_layers),
                               .workspace_bytes = GpuModel::planned_workspace_bytes(config, weights, limits) +
                                                  GpuExecutor::planned_bytes(config) + of_host,
                               .page_bytes = GpuModel::page_layout(config).bytes_per_page(),
                               .cache_memory_mib = options.cache_memory_mib,
                               .context_length = options.context_length},
                              free);
  };
  SLUICE_ASSIGN_OR_RETURN(const int32_t host_layers, choose_host_layers(config, options.host_layers, plan_with));
  const Result<DevicePlan> planned = plan_with(host_layers);
  if (!planned.ok()) {
    const bool may_help = options.host_layers == 0 && moe_layers(config) > 0;
    return may_help ? resource_exhausted("{}; or --experts-on auto leaves with the host what does not fit",
                                         planned.status().message())
                    : planned.status();
  }
  const DevicePlan& plan = *planned;
  log_info("{}: {}", found.name, plan.to_text());
  if (host_layers > 0) SLUICE_RETURN_IF_ERROR(check_host(config, checkpoint, host_layers, context, options));
  SLUICE_ASSIGN_OR_RETURN(std::unique_ptr<GpuModel> model,
                          GpuModel::load(config, checkpoint, *device, context,
                                         {.weights = options.weights,
                                          .max_batch_tokens = options.max_batch_tokens,
                                          .context_length = options.context_length,
                                          .progress = options.progress,
                                          .packed_cache = options.packed_cache,
                                          .host_layers = host_layers,
                                          .host_backend = options.host_backend}));
  SLUICE_ASSIGN_OR_RETURN(std::unique_ptr<GpuExecutor> executor,
                          GpuExecutor::create(*model, *device, {.num_pages = plan.num_pages}));
  return std::unique_ptr<GpuEngine>(
      new LoadedEngine(std::move(device), std::move(model), std::move(executor), plan.num_pages, host_layers));
}

}  // namespace sluice
