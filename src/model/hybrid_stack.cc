#include "model/hybrid_stack.h"

#include <algorithm>

namespace sluice {

namespace {

constexpr int32_t kLaneMultiple = 16;  // what kernels ask of the widths of cache entries

}  // namespace

Status HybridStack::check_supported(const ModelConfig& config, const Backend& backend) {
  if (backend.window_attention == nullptr)
    return failed_precondition("config.json: model_type: {} is not supported on device {}", config.model_type,
                               backend.name);
  const auto check = [](const char* field, int32_t found) -> Status {
    if (found % kLaneMultiple == 0) return {};
    return failed_precondition("config.json: {}: expected a multiple of {}, found {}", field, kLaneMultiple, found);
  };
  SLUICE_RETURN_IF_ERROR(check("head_dim", config.hybrid->head_dim));
  return check("index_head_dim", config.index_head_dim);
}

Status HybridStack::check_tables(const ModelConfig& config, const Checkpoint& checkpoint) {
  for (int32_t layer = 0; layer < config.hybrid->num_hash_layers; ++layer) {
    const std::string name = fmt::format("layers.{}.ffn.gate.tid2eid", layer);
    const std::vector<int32_t> table = checkpoint.read_ids(name);
    for (size_t i = 0; i < table.size(); ++i)
      if (table[i] < 0 || table[i] >= config.n_routed_experts)
        return failed_precondition("tensor \"{}\": token {}: expected experts in [0, {}), found {}", name,
                                   i / static_cast<size_t>(config.num_experts_per_tok), config.n_routed_experts,
                                   table[i]);
  }
  return {};
}

HybridStack::HybridStack(const ModelConfig& config, int64_t max_rows, WeightLoader& loader)
    : config_(config),
      window_rope_(window_rope(config)),
      block_rope_(block_rope(config)),
      layers_([&] {
        std::vector<Layer> layers;
        for (int32_t index = 0; index < config.num_hidden_layers; ++index) {
          const std::string prefix = fmt::format("layers.{}.", index);
          constexpr auto kBlock = HyperConnection::Kind::kBlock;
          layers.push_back({.attention_site = HyperConnection(config, prefix + "hc_attn", kBlock, loader),
                            .attention_norm = loader.vector(prefix + "attn_norm.weight", config.hidden_size),
                            .attention = WindowAttention(config, index, loader),
                            .ffn_site = HyperConnection(config, prefix + "hc_ffn", kBlock, loader),
                            .ffn_norm = loader.vector(prefix + "ffn_norm.weight", config.hidden_size),
                            .moe = MixtureOfExperts(config, Partition::whole(config), index, loader)});
        }
        return layers;
      }()),
      head_(config, "hc_head", HyperConnection::Kind::kHead, loader),
      hyper_work_(config, max_rows),
      attention_work_(config, max_rows),
      ffn_work_(config, Partition::whole(config), max_rows) {
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  block_begin_.resize(floats(1));
  for (Activations<float>& angles : angles_) angles.resize(floats(config.qk_rope_head_dim));
  streams_.resize(floats(int64_t{config.hybrid->hc_mult} * config.hidden_size));
  normed_.resize(floats(config.hidden_size));
  output_.resize(floats(config.hidden_size));
}

int64_t HybridStack::weight_bytes() const {
  int64_t bytes = head_.weight_bytes();
  for (const Layer& layer : layers_)
    bytes += layer.attention_site.weight_bytes() + layer.attention.weight_bytes() + layer.ffn_site.weight_bytes() +
             layer.moe.weight_bytes();
  return bytes;
}

HybridAngles HybridStack::fill_angles(std::span<const int32_t> positions) {
  window_rope_.fill(positions, angles_[0].data());
  block_rope_.fill(positions, angles_[1].data());
  const std::span begins(block_begin_.data(), positions.size());
  const auto fill_block = [&](int32_t ratio, Activations<float>& out) {
    std::transform(positions.begin(), positions.end(), begins.begin(), [&](int32_t t) { return t - t % ratio; });
    block_rope_.fill(begins, out.data());
  };
  fill_block(kSelectedRatio, angles_[2]);
  fill_block(kGlobalRatio, angles_[3]);
  return {angles_[0].data(), angles_[1].data(), angles_[2].data(), angles_[3].data()};
}

void HybridStack::forward(const StepBatch& batch, const float* embedded, float* hidden_out, const Backend& backend,
                          OpContext& context) {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t hidden = config_.hidden_size, streams = config_.hybrid->hc_mult;
  spans_.assign(batch.prompt_spans.begin(), batch.prompt_spans.end());
  spans_.insert(spans_.end(), batch.generated_spans.begin(), batch.generated_spans.end());
  const HybridAngles angles = fill_angles(batch.positions);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t stream = 0; stream < streams; ++stream)
      std::copy_n(embedded + row * hidden, hidden, streams_.data() + (row * streams + stream) * hidden);

  const auto enter = [&](const HyperConnection& site, const std::vector<float>& norm) {
    site.collapse(rows, streams_.data(), hyper_work_, normed_.data(), backend, context);
    backend.rms_norm({.x = normed_.data(),
                      .weight = norm.data(),
                      .y = normed_.data(),
                      .rows = rows,
                      .cols = hidden,
                      .x_stride = hidden,
                      .eps = static_cast<float>(config_.rms_norm_eps)},
                     context);
  };
  const auto leave = [&](const HyperConnection& site) {
    site.expand(rows, output_.data(), hyper_work_, streams_.data(), backend, context);
  };
  for (const Layer& layer : layers_) {
    enter(layer.attention_site, layer.attention_norm);
    layer.attention.forward(batch, spans_, normed_.data(), angles, attention_work_, output_.data(), backend, context);
    leave(layer.attention_site);
    enter(layer.ffn_site, layer.ffn_norm);
    std::fill_n(output_.begin(), rows * hidden, 0.0f);  // the experts add
    layer.moe.forward(batch, normed_.data(), ffn_work_, output_.data(), backend, context);
    leave(layer.ffn_site);
  }
  head_.collapse(rows, streams_.data(), hyper_work_, normed_.data(), backend, context);
  for (size_t i = 0; i < batch.output_rows.size(); ++i)
    std::copy_n(normed_.data() + batch.output_rows[i] * hidden, hidden, hidden_out + static_cast<int64_t>(i) * hidden);
}

}  // namespace sluice
