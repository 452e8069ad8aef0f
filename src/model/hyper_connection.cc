#include "model/hyper_connection.h"

namespace sluice {

HyperConnection::Workspace::Workspace(const ModelConfig& config, int64_t max_rows) {
  const int64_t n = config.hybrid->hc_mult;
  const auto floats = [&](int64_t per_row) { return static_cast<size_t>(max_rows * per_row); };
  normed.resize(floats(n * config.hidden_size));
  logits.resize(floats(n * (n + 2)));
  pre.resize(floats(n));
  post.resize(floats(n));
  mix.resize(floats(n * n));
}

HyperConnection::HyperConnection(const ModelConfig& config, const std::string& prefix, Kind kind, WeightLoader& loader)
    : config_(config), is_block_(kind == Kind::kBlock) {
  const int64_t n = config.hybrid->hc_mult, outputs = is_block_ ? n * (n + 2) : n;
  fn_ = loader.pack_as({loader.tensor(prefix + "_fn", outputs, n * config.hidden_size)}, WeightFormat::kF32);
  base_ = loader.vector(prefix + "_base", outputs);
  scale_ = loader.vector(prefix + "_scale", is_block_ ? 3 : 1);
}

void HyperConnection::collapse(int64_t rows, const float* streams, Workspace& work, float* u, const Backend& backend,
                               OpContext& context) const {
  const HybridConfig& hybrid = *config_.hybrid;
  const int64_t width = int64_t{hybrid.hc_mult} * config_.hidden_size;
  backend.rms_norm({.x = streams,
                    .y = work.normed.data(),
                    .rows = rows,
                    .cols = width,
                    .x_stride = width,
                    .eps = static_cast<float>(config_.rms_norm_eps)},
                   context);
  backend.matmul({.x = work.normed.data(),
                  .rows = rows,
                  .x_stride = width,
                  .weight = fn_[0],
                  .y = work.logits.data(),
                  .y_stride = fn_[0].rows},
                 context);
  backend.hyper_weights({.logits = work.logits.data(),
                         .scale = scale_.data(),
                         .base = base_.data(),
                         .rows = rows,
                         .streams = hybrid.hc_mult,
                         .iterations = hybrid.hc_sinkhorn_iters,
                         .eps = static_cast<float>(hybrid.hc_eps),
                         .pre = work.pre.data(),
                         .post = is_block_ ? work.post.data() : nullptr,
                         .mix = is_block_ ? work.mix.data() : nullptr},
                        context);
  backend.hyper_collapse({.x = streams,
                          .pre = work.pre.data(),
                          .rows = rows,
                          .hidden = config_.hidden_size,
                          .streams = hybrid.hc_mult,
                          .u = u},
                         context);
}

void HyperConnection::expand(int64_t rows, const float* y, const Workspace& work, float* streams,
                             const Backend& backend, OpContext& context) const {
  backend.hyper_expand({.y = y,
                        .post = work.post.data(),
                        .mix = work.mix.data(),
                        .rows = rows,
                        .hidden = config_.hidden_size,
                        .streams = config_.hybrid->hc_mult,
                        .x = streams},
                       context);
}

}  // namespace sluice
