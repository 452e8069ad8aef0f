#include "model/feed_forward.h"

#include <algorithm>

namespace sluice {

DenseFeedForward::DenseFeedForward(const std::string& prefix, int64_t hidden, int64_t width, WeightLoader& loader,
                                   const FeedForwardNames& names, float limit)
    : hidden_(hidden), width_(width), limit_(limit) {
  gate_up_ = loader.pack({WeightLoader::stacked(loader.tensor(prefix + names.gate, width, hidden),
                                                loader.tensor(prefix + names.up, width, hidden))});
  down_ = loader.pack({loader.tensor(prefix + names.down, hidden, width)});
}

void DenseFeedForward::forward(int64_t rows, const float* normed, std::vector<float>& gate_up,
                               std::vector<float>& activated, float* y, bool add, const Backend& backend,
                               OpContext& context) const {
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = hidden_,
                  .weight = gate_up_[0],
                  .y = gate_up.data(),
                  .y_stride = 2 * width_},
                 context);
  backend.silu_mul({.gate_up = gate_up.data(), .y = activated.data(), .rows = rows, .width = width_, .limit = limit_},
                   context);
  backend.matmul({.x = activated.data(),
                  .rows = rows,
                  .x_stride = width_,
                  .weight = down_[0],
                  .y = y,
                  .y_stride = hidden_,
                  .add = add},
                 context);
}

FeedForwardWorkspace::FeedForwardWorkspace(const ModelConfig& config, int64_t max_rows) {
  const int64_t routed_rows = max_rows * config.num_experts_per_tok;
  const int64_t shared_width = int64_t{config.moe_intermediate_size} * config.n_shared_experts;
  const int64_t widest = std::max(
      {max_rows * config.intermediate_size, max_rows * shared_width, routed_rows * config.moe_intermediate_size});
  gate_up.resize(static_cast<size_t>(2 * widest));
  activated.resize(static_cast<size_t>(widest));
  router_logits.resize(static_cast<size_t>(max_rows * config.n_routed_experts));
  experts.resize(static_cast<size_t>(routed_rows));
  expert_weights.resize(static_cast<size_t>(routed_rows));
  offsets.resize(static_cast<size_t>(config.n_routed_experts) + 1);
  row_ids.resize(static_cast<size_t>(routed_rows));
  places.resize(static_cast<size_t>(routed_rows));
  expert_out.resize(static_cast<size_t>(routed_rows * config.hidden_size));
  if (config.n_shared_experts > 0) shared_out.resize(static_cast<size_t>(max_rows * config.hidden_size));
}

MixtureOfExperts::MixtureOfExperts(const ModelConfig& config, int32_t layer, WeightLoader& loader)
    : config_(config), layer_(layer), limit_(config.hybrid ? static_cast<float>(config.hybrid->swiglu_limit) : 0) {
  const bool v4 = config.hybrid.has_value();
  const FeedForwardNames names = v4 ? kShortNames : FeedForwardNames();
  const std::string prefix = v4 ? fmt::format("layers.{}.ffn.", layer) : fmt::format("model.layers.{}.mlp.", layer);
  const int64_t hidden = config.hidden_size, width = config.moe_intermediate_size;
  const std::string gate = prefix + "gate.weight";
  router_ = loader.pack_exact({loader.tensor(gate, config.n_routed_experts, hidden)}, loader.checkpoint().dtype(gate));
  if (v4 && layer < config.hybrid->num_hash_layers) {
    table_ = loader.checkpoint().read_ids(prefix + "gate.tid2eid");
  } else if (config.topk_method == TopkMethod::kNoauxTc) {
    bias_ = loader.vector(prefix + (v4 ? "gate.bias" : "gate.e_score_correction_bias"), config.n_routed_experts);
  }
  std::vector<RowSource> gate_up, down;
  for (int32_t expert = 0; expert < config.n_routed_experts; ++expert) {
    const std::string name = fmt::format("{}experts.{}.", prefix, expert);
    gate_up.push_back(WeightLoader::stacked(loader.tensor(name + names.gate, width, hidden),
                                            loader.tensor(name + names.up, width, hidden)));
    down.push_back(loader.tensor(name + names.down, hidden, width));
  }
  gate_up_ = loader.pack(gate_up);
  down_ = loader.pack(down);
  if (config.n_shared_experts > 0)
    shared_.emplace_back(prefix + "shared_experts.", hidden, width * config.n_shared_experts, loader, names, limit_);
}

int64_t MixtureOfExperts::weight_bytes() const {
  return router_.bytes() + gate_up_.bytes() + down_.bytes() + (shared_.empty() ? 0 : shared_[0].weight_bytes());
}

void MixtureOfExperts::forward(const StepBatch& batch, const float* normed, FeedForwardWorkspace& work, float* x,
                               const Backend& backend, OpContext& context) const {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t hidden = config_.hidden_size, width = config_.moe_intermediate_size;
  const int32_t num_experts = config_.n_routed_experts, top_k = config_.num_experts_per_tok;

  if (!shared_.empty())
    shared_[0].forward(rows, normed, work.gate_up, work.activated, work.shared_out.data(), false, backend, context);

  // route
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = hidden,
                  .weight = router_[0],
                  .y = work.router_logits.data(),
                  .y_stride = num_experts},
                 context);
  const bool grouped = config_.topk_method != TopkMethod::kGreedy;
  backend.route({.logits = work.router_logits.data(),
                 .bias = bias_.empty() ? nullptr : bias_.data(),
                 .rows = rows,
                 .num_experts = num_experts,
                 .num_groups = grouped ? config_.n_group : 1,
                 .top_groups = grouped ? config_.topk_group : 1,
                 .top_k = top_k,
                 .scoring = config_.scoring_func,
                 .table = table_.empty() ? nullptr : table_.data(),
                 .tokens = batch.tokens.data(),
                 .normalize = config_.norm_topk_prob,
                 .scale = static_cast<float>(config_.routed_scaling_factor),
                 .experts = work.experts.data(),
                 .weights = work.expert_weights.data()},
                context);
  if (batch.observer && batch.observer->routed)
    batch.observer->routed(layer_, rows, top_k, work.experts.data(), work.expert_weights.data());
  // permute
  backend.permute({.experts = work.experts.data(),
                   .rows = rows,
                   .top_k = top_k,
                   .num_experts = num_experts,
                   .offsets = work.offsets.data(),
                   .row_ids = work.row_ids.data(),
                   .places = work.places.data()},
                  context);
  // grouped gate and up
  backend.grouped_matmul({.x = normed,
                          .row_ids = work.row_ids.data(),
                          .x_stride = hidden,
                          .offsets = work.offsets,
                          .weights = gate_up_.all(),
                          .y = work.gate_up.data(),
                          .y_stride = 2 * width},
                         context);
  // activation
  backend.silu_mul({.gate_up = work.gate_up.data(),
                    .y = work.activated.data(),
                    .rows = rows * top_k,
                    .width = width,
                    .limit = limit_},
                   context);
  // grouped down
  backend.grouped_matmul({.x = work.activated.data(),
                          .x_stride = width,
                          .offsets = work.offsets,
                          .weights = down_.all(),
                          .y = work.expert_out.data(),
                          .y_stride = hidden},
                         context);
  // combine
  backend.combine({.y = work.expert_out.data(),
                   .places = work.places.data(),
                   .weights = work.expert_weights.data(),
                   .shared = shared_.empty() ? nullptr : work.shared_out.data(),
                   .x = x,
                   .rows = rows,
                   .hidden = hidden,
                   .top_k = top_k},
                  context);
}

}  // namespace sluice
