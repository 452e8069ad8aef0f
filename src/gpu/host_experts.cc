#include "gpu/host_experts.h"

#include <algorithm>
#include <numeric>

namespace sluice {

Result<std::unique_ptr<HostExperts>> HostExperts::create(Device& device, const ModelConfig& config,
                                                         const Backend& backend, OpContext context, int32_t max_rows) {
  std::unique_ptr<HostExperts> host(new HostExperts(device, config, backend, context, max_rows));
  SLUICE_RETURN_IF_ERROR(host->allocate(max_rows));
  return host;
}

HostExperts::HostExperts(Device& device, const ModelConfig& config, const Backend& backend, OpContext context,
                         int32_t max_rows)
    : device_(device),
      config_(config),
      backend_(backend),
      context_(context),
      whole_(Partition::whole(config)),
      work_(config, whole_, max_rows) {
  normed_.resize(static_cast<size_t>(int64_t{max_rows} * config.hidden_size));
  sum_.resize(normed_.size());
}

Status HostExperts::allocate(int32_t max_rows) {
  const int64_t rows = max_rows, values = rows * config_.hidden_size, pairs = rows * config_.num_experts_per_tok;
  SLUICE_ASSIGN_OR_RETURN(normed_in_, PinnedBuffer::allocate(device_, values * 2));
  SLUICE_ASSIGN_OR_RETURN(experts_in_, PinnedBuffer::allocate(device_, pairs * 4));
  SLUICE_ASSIGN_OR_RETURN(weights_in_, PinnedBuffer::allocate(device_, pairs * 4));
  SLUICE_ASSIGN_OR_RETURN(out_, PinnedBuffer::allocate(device_, values * 2));
  SLUICE_ASSIGN_OR_RETURN(constants_, DeviceBuffer::allocate(device_, device_bytes(max_rows)));
  std::vector<int32_t> places(static_cast<size_t>(rows));
  std::iota(places.begin(), places.end(), 0);
  const std::vector<float> ones(places.size(), 1.0f);
  SLUICE_RETURN_IF_ERROR(device_.copy_in(constants_.data(), bytes_of(places.data()), rows * 4));
  SLUICE_RETURN_IF_ERROR(device_.copy_in(constants_.data() + constants_.bytes() / 2, bytes_of(ones.data()), rows * 4));
  return device_.wait();
}

int64_t HostExperts::planned_activation_bytes(const ModelConfig& config, int32_t max_rows) {
  const int64_t before = activation_bytes(), values = int64_t{max_rows} * config.hidden_size;
  const FeedForwardWorkspace work(config, Partition::whole(config), max_rows);  // counts itself, and is never touched
  const int64_t pinned = 2 * values * 2 + 2 * int64_t{max_rows} * config.num_experts_per_tok * 4;
  return activation_bytes() - before + 2 * values * 4 + pinned;
}

int64_t HostExperts::planned_bytes(const ModelConfig& config, int32_t layer, const Checkpoint& checkpoint,
                                   WeightFormat weights, const Backend& backend, OpContext& context) {
  WeightLoader loader(checkpoint, packing_of(backend), weights, context, {});
  loader.measure_only();
  return RoutedExperts(config, Partition::whole(config), layer, loader).weight_bytes();
}

int32_t HostExperts::load(int32_t layer, WeightLoader& loader) {
  layers_.push_back(std::unique_ptr<Layer>(new Layer{*this, RoutedExperts(config_, whole_, layer, loader)}));
  return static_cast<int32_t>(layers_.size()) - 1;
}

int64_t HostExperts::weight_bytes() const {
  int64_t bytes = 0;
  for (const auto& layer : layers_) bytes += layer->experts.weight_bytes();
  return bytes;
}

Status HostExperts::fork(int32_t index, const Input& input) {
  const int64_t values = int64_t{input.rows} * config_.hidden_size;
  const int64_t pairs = int64_t{input.rows} * config_.num_experts_per_tok;
  SLUICE_RETURN_IF_ERROR(device_.copy_out(normed_in_.data(), bytes_of(input.normed), values * 2));
  SLUICE_RETURN_IF_ERROR(device_.copy_out(experts_in_.data(), bytes_of(input.experts), pairs * 4));
  SLUICE_RETURN_IF_ERROR(device_.copy_out(weights_in_.data(), bytes_of(input.weights), pairs * 4));
  const auto run = [](void* context) {
    const Layer& layer = *static_cast<const Layer*>(context);
    layer.host.compute(layer.experts);
  };
  return device_.fork_call({.run = run, .context = layers_[static_cast<size_t>(index)].get()});
}

Status HostExperts::join(cuda::bf16* out, int32_t rows) {
  SLUICE_RETURN_IF_ERROR(device_.join_call());
  return device_.copy_in(bytes_of(out), out_.data(), int64_t{rows} * config_.hidden_size * 2);
}

void HostExperts::compute(const RoutedExperts& experts) {
  const int64_t hidden = config_.hidden_size, pairs = int64_t{rows_} * config_.num_experts_per_tok;
  std::copy_n(experts_in_.as<int32_t>(), pairs, work_.experts.data());
  std::copy_n(weights_in_.as<float>(), pairs, work_.expert_weights.data());
  context_.team.parallel_for(rows_, 1, [&](int64_t begin, int64_t end, int) {
    std::transform(normed_in_.as<uint16_t>() + begin * hidden, normed_in_.as<uint16_t>() + end * hidden,
                   normed_.data() + begin * hidden, bf16_to_f32);
    std::fill(sum_.data() + begin * hidden, sum_.data() + end * hidden, 0.0f);
  });
  experts.forward(rows_, normed_.data(), work_, nullptr, sum_.data(), backend_, context_);
  context_.team.parallel_for(padded_rows_, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* from = sum_.data() + (row < rows_ ? row : 0) * hidden;
      std::transform(from, from + hidden, out_.as<uint16_t>() + row * hidden, f32_to_bf16);
    }
  });
}

}  // namespace sluice
