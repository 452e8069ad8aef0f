#include "model/feed_forward.h"

#include <algorithm>

namespace sluice {

namespace {

FeedForwardNames names_of(const ModelConfig& config) { return config.hybrid ? kShortNames : FeedForwardNames(); }
std::string prefix_of(const ModelConfig& config, int32_t layer) {
  return config.hybrid ? fmt::format("layers.{}.ffn.", layer) : fmt::format("model.layers.{}.mlp.", layer);
}
float limit_of(const ModelConfig& config) {
  return config.hybrid ? static_cast<float>(config.hybrid->swiglu_limit) : 0;
}

}  // namespace

DenseFeedForward::DenseFeedForward(const std::string& prefix, int64_t hidden, const Slice& width, int64_t all,
                                   WeightLoader& loader, const FeedForwardNames& names, float limit)
    : hidden_(hidden), width_(width.padded), limit_(limit) {
  gate_up_ = loader.pack({WeightLoader::stacked(loader.rows_of(prefix + names.gate, width, hidden),
                                                loader.rows_of(prefix + names.up, width, hidden))});
  down_ = loader.pack({loader.columns_of(prefix + names.down, hidden, width, all)});
}

void DenseFeedForward::forward(int64_t rows, const float* normed, Activations<float>& gate_up,
                               Activations<float>& activated, float* y, bool add, const Backend& backend,
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

FeedForwardWorkspace::FeedForwardWorkspace(const ModelConfig& config, const Partition& partition, int64_t max_rows) {
  const int64_t routed_rows = max_rows * config.num_experts_per_tok;
  const int64_t widest = std::max({max_rows * partition.dense_width.padded, max_rows * partition.shared_width.padded,
                                   routed_rows * partition.expert_width.padded});
  gate_up.resize(static_cast<size_t>(2 * widest));
  activated.resize(static_cast<size_t>(widest));
  router_logits.resize(static_cast<size_t>(max_rows * config.n_routed_experts));
  experts.resize(static_cast<size_t>(routed_rows));
  expert_weights.resize(static_cast<size_t>(routed_rows));
  offsets.resize(static_cast<size_t>(config.n_routed_experts) + 1);
  own_offsets.resize(static_cast<size_t>(partition.experts.size()) + 1);
  row_ids.resize(static_cast<size_t>(routed_rows));
  places.resize(static_cast<size_t>(routed_rows));
  expert_out.resize(static_cast<size_t>(routed_rows * config.hidden_size));
  if (config.n_shared_experts > 0) shared_out.resize(static_cast<size_t>(max_rows * config.hidden_size));
}

RoutedExperts::RoutedExperts(const ModelConfig& config, const Partition& partition, int32_t layer, WeightLoader& loader)
    : config_(config),
      first_expert_(partition.experts.begin),
      num_own_experts_(partition.experts.size()),
      width_(partition.expert_width.padded),
      limit_(limit_of(config)) {
  const FeedForwardNames names = names_of(config);
  const int64_t hidden = config.hidden_size, all = config.moe_intermediate_size;
  const Slice& width = partition.expert_width;
  std::vector<RowSource> gate_up, down;
  for (int64_t expert = partition.experts.begin; expert < partition.experts.end; ++expert) {
    const std::string name = fmt::format("{}experts.{}.", prefix_of(config, layer), expert);
    gate_up.push_back(WeightLoader::stacked(loader.rows_of(name + names.gate, width, hidden),
                                            loader.rows_of(name + names.up, width, hidden)));
    down.push_back(loader.columns_of(name + names.down, hidden, width, all));
  }
  gate_up_ = loader.pack(gate_up);
  down_ = loader.pack(down);
}

void RoutedExperts::forward(int64_t rows, const float* normed, FeedForwardWorkspace& work, const float* shared,
                            float* x, const Backend& backend, OpContext& context) const {
  const int64_t hidden = config_.hidden_size;
  const int32_t top_k = config_.num_experts_per_tok;
  // permute
  backend.permute({.experts = work.experts.data(),
                   .rows = rows,
                   .top_k = top_k,
                   .num_experts = config_.n_routed_experts,
                   .offsets = work.offsets.data(),
                   .row_ids = work.row_ids.data(),
                   .places = work.places.data()},
                  context);
  // This rank's experts have the rows [begin, end) of the permuted ones.
  const auto own = std::span(work.offsets).subspan(static_cast<size_t>(first_expert_),
                                                   static_cast<size_t>(num_own_experts_) + 1);
  const int64_t begin = own.front(), end = own.back();
  std::transform(own.begin(), own.end(), work.own_offsets.begin(),
                 [&](int32_t offset) { return offset - own.front(); });
  // grouped gate and up
  backend.grouped_matmul({.x = normed,
                          .row_ids = work.row_ids.data() + begin,
                          .x_stride = hidden,
                          .offsets = work.own_offsets,
                          .weights = gate_up_.all(),
                          .y = work.gate_up.data(),
                          .y_stride = 2 * width_},
                         context);
  // activation
  backend.silu_mul({.gate_up = work.gate_up.data(),
                    .y = work.activated.data(),
                    .rows = end - begin,
                    .width = width_,
                    .limit = limit_},
                   context);
  // grouped down
  backend.grouped_matmul({.x = work.activated.data(),
                          .x_stride = width_,
                          .offsets = work.own_offsets,
                          .weights = down_.all(),
                          .y = work.expert_out.data() + begin * hidden,
                          .y_stride = hidden},
                         context);
  std::fill_n(work.expert_out.data(), begin * hidden, 0.0f);
  std::fill_n(work.expert_out.data() + end * hidden, (rows * top_k - end) * hidden, 0.0f);
  // combine
  backend.combine({.y = work.expert_out.data(),
                   .places = work.places.data(),
                   .weights = work.expert_weights.data(),
                   .shared = shared,
                   .x = x,
                   .rows = rows,
                   .hidden = hidden,
                   .top_k = top_k},
                  context);
}

MixtureOfExperts::MixtureOfExperts(const ModelConfig& config, const Partition& partition, int32_t layer,
                                   WeightLoader& loader)
    : config_(config), layer_(layer) {
  const std::string prefix = prefix_of(config, layer), gate = prefix + "gate.weight";
  const int64_t hidden = config.hidden_size;
  router_ = loader.pack_exact({loader.tensor(gate, config.n_routed_experts, hidden)}, loader.checkpoint().dtype(gate));
  if (config.hybrid && layer < config.hybrid->num_hash_layers) {
    table_ = loader.checkpoint().read_ids(prefix + "gate.tid2eid");
  } else if (config.topk_method == TopkMethod::kNoauxTc) {
    bias_ = loader.vector(prefix + (config.hybrid ? "gate.bias" : "gate.e_score_correction_bias"),
                          config.n_routed_experts);
  }
  routed_.emplace(config, partition, layer, loader);
  if (config.n_shared_experts > 0)
    shared_.emplace_back(prefix + "shared_experts.", hidden, partition.shared_width,
                         int64_t{config.moe_intermediate_size} * config.n_shared_experts, loader, names_of(config),
                         limit_of(config));
}

int64_t MixtureOfExperts::weight_bytes() const {
  return router_.bytes() + routed_->weight_bytes() + (shared_.empty() ? 0 : shared_[0].weight_bytes()) +
         static_cast<int64_t>(table_.size() * sizeof(int32_t));
}

void MixtureOfExperts::forward(const StepBatch& batch, const float* normed, FeedForwardWorkspace& work, float* x,
                               const Backend& backend, OpContext& context) const {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  const int32_t num_experts = config_.n_routed_experts, top_k = config_.num_experts_per_tok;

  if (!shared_.empty())
    shared_[0].forward(rows, normed, work.gate_up, work.activated, work.shared_out.data(), false, backend, context);

  // route
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = config_.hidden_size,
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
  routed_->forward(rows, normed, work, shared_.empty() ? nullptr : work.shared_out.data(), x, backend, context);
}

}  // namespace sluice
