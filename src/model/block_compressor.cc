#include "model/block_compressor.h"

namespace sluice {

BlockCompressor::BlockCompressor(const ModelConfig& config, const std::string& prefix, const Shape& shape,
                                 WeightLoader& loader)
    : config_(config), shape_(shape) {
  const int64_t columns = int64_t{series_of(shape.ratio)} * shape.dim;
  project_ = loader.pack({WeightLoader::stacked(loader.tensor(prefix + "wkv.weight", columns, config.hidden_size),
                                                loader.tensor(prefix + "wgate.weight", columns, config.hidden_size))});
  ape_.resize(static_cast<size_t>(shape.ratio * columns));
  loader.checkpoint().read_rows(prefix + "ape", 0, shape.ratio, ape_.data());
  norm_ = loader.vector(prefix + "norm.weight", shape.dim);
}

CompressedCache BlockCompressor::cache_of(const KvPages& kv) const {
  return {.entries = {.base = kv.base + kv.layout->offset_of(shape_.entry_group, shape_.slot),
                      .page_stride = kv.bytes_per_page,
                      .dtype = kv.dtype},
          .ratio = shape_.ratio};
}

void BlockCompressor::write(const KvPages& kv, std::span<const SequenceSpan> spans, int64_t rows, const float* normed,
                            const float* cos_sin, Activations<float>& projected, const Backend& backend,
                            OpContext& context) const {
  backend.matmul({.x = normed,
                  .rows = rows,
                  .x_stride = config_.hidden_size,
                  .weight = project_[0],
                  .y = projected.data(),
                  .y_stride = project_[0].rows},
                 context);
  backend.compress({.z = projected.data(),
                    .ape = ape_.data(),
                    .norm_weight = norm_.data(),
                    .eps = static_cast<float>(config_.rms_norm_eps),
                    .cos_sin = cos_sin,
                    .series = series_of(shape_.ratio),
                    .dim = shape_.dim,
                    .rope_dim = config_.qk_rope_head_dim,
                    .sequences = spans,
                    .cache = cache_of(kv),
                    .state = kv.base + kv.layout->offset_of(shape_.state_group, shape_.slot),
                    .state_stride = kv.bytes_per_page},
                   context);
}

}  // namespace sluice
