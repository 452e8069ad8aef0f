#include "model/deepseek.h"

#include <algorithm>
#include <cstring>

#include "model/cache_layout.h"

namespace sluice {

Status DeepSeekModel::check_supported(const ModelConfig& config, const Backend& backend) {
  SLUICE_RETURN_IF_ERROR(BlockAttention::check(config));
  if (config.hybrid) return HybridStack::check_supported(config, backend);
  if (config.index_topk > 0 && backend.sparse_attention == nullptr)
    return failed_precondition("config.json: model_type: {} is not supported on device {}", config.model_type,
                               backend.name);
  if (config.block_global && backend.block_select == nullptr)
    return failed_precondition("attention: block_global is not supported on device {}", backend.name);
  // What the kernels ask of the shapes beyond what the config's own rules say.
  if (config.kv_lora_rank % 16 != 0)
    return failed_precondition("config.json: kv_lora_rank: expected a multiple of 16, found {}", config.kv_lora_rank);
  return {};
}

Result<std::unique_ptr<DeepSeekModel>> DeepSeekModel::load(const ModelConfig& config, const Checkpoint& checkpoint,
                                                           const Backend& backend, OpContext& context,
                                                           const ModelLoadOptions& options) {
  SLUICE_RETURN_IF_ERROR(check_supported(config, backend));
  for (const TensorSpec& spec : required_tensors(config)) {
    SLUICE_RETURN_IF_ERROR(checkpoint.expect(spec));
    if (options.weights == WeightFormat::kAuto && spec.shape.rank == 2)
      SLUICE_RETURN_IF_ERROR(checkpoint.expect_exact(spec.name, spec.shape[1]));
  }
  if (config.hybrid) SLUICE_RETURN_IF_ERROR(HybridStack::check_tables(config, checkpoint));
  WeightLoader loader(checkpoint, packing_of(backend), options.weights, context, options.progress, options.observer,
                      options.packed_cache);
  if (!backend.supports(loader.format()))
    return failed_precondition("weights: {} is not supported on device {}; --weights names another format",
                               name(loader.format()), backend.name);
  std::unique_ptr<DeepSeekModel> model(new DeepSeekModel(config, backend, options, loader.format()));
  model->load_weights(loader);
  if (options.packed_cache) options.packed_cache->finish();
  return model;
}

DeepSeekModel::DeepSeekModel(const ModelConfig& config, const Backend& backend, const ModelLoadOptions& options,
                             WeightFormat weights)
    : config_(config),
      backend_(backend),
      weights_(weights),
      cache_dtype_(options.cache_dtype),
      max_batch_tokens_(options.max_batch_tokens),
      rope_(config) {
  if (!config.hybrid) {
    attention_work_.emplace(config_, options.max_batch_tokens);
    ffn_work_.emplace(config_, options.max_batch_tokens);
  }
  const auto rows = static_cast<size_t>(max_batch_tokens_);
  x_.resize(rows * static_cast<size_t>(config.hidden_size));
  normed_.resize(x_.size());
  cos_sin_.resize(rows * static_cast<size_t>(config.qk_rope_head_dim));
}

void DeepSeekModel::load_weights(WeightLoader& loader) {
  const int64_t vocab = config_.vocab_size, hidden = config_.hidden_size;
  const bool v4 = config_.hybrid.has_value();
  const std::string embed = v4 ? "embed.weight" : "model.embed_tokens.weight";
  const bool wide = weights_ == WeightFormat::kF32 || loader.checkpoint().dtype(embed) == DType::kF32;
  embedding_ = Buffer(static_cast<size_t>(vocab * hidden * (wide ? 4 : 2)));
  embedding_view_ = {embedding_.data(), wide ? DType::kF32 : DType::kBF16, Shape{vocab, hidden}};
  loader.fill(embedding_, [&] {
    std::vector<float> row(static_cast<size_t>(hidden));
    for (int64_t token = 0; token < vocab; ++token) {
      loader.checkpoint().read_rows(embed, token, 1, row.data());
      if (wide) {
        std::memcpy(embedding_.as<float>() + token * hidden, row.data(), row.size() * sizeof(float));
      } else {
        std::transform(row.begin(), row.end(), embedding_.as<uint16_t>() + token * hidden, f32_to_bf16);
      }
    }
  });
  if (v4) hybrid_.emplace(config_, max_batch_tokens_, loader);
  for (int32_t index = 0; !v4 && index < config_.num_hidden_layers; ++index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    Layer layer{.input_norm = loader.vector(prefix + "input_layernorm.weight", hidden),
                .attention = LatentAttention(config_, index, cache_dtype_, loader),
                .ffn_norm = loader.vector(prefix + "post_attention_layernorm.weight", hidden),
                .dense = {},
                .moe = {}};
    if (config_.is_moe_layer(index)) {
      layer.moe.emplace(config_, index, loader);
    } else {
      layer.dense.emplace(prefix + "mlp.", hidden, config_.intermediate_size, loader);
    }
    layers_.push_back(std::move(layer));
  }
  final_norm_ = loader.vector(v4 ? "norm.weight" : "model.norm.weight", hidden);
  const std::string head = v4 ? "head.weight" : "lm_head.weight";
  head_ = loader.pack({loader.tensor(config_.tie_word_embeddings ? embed : head, vocab, hidden)});
}

void DeepSeekModel::forward(const StepBatch& batch, float* hidden_out, OpContext& context) {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  SLUICE_CHECK(rows <= max_batch_tokens_, "rows={} max={}", rows, max_batch_tokens_);
  const int64_t hidden = config_.hidden_size;
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  const auto norm = [&](const std::vector<float>& weight) {
    backend_.rms_norm({.x = x_.data(),
                       .weight = weight.data(),
                       .y = normed_.data(),
                       .rows = rows,
                       .cols = hidden,
                       .x_stride = hidden,
                       .eps = eps},
                      context);
  };

  backend_.embed({.tokens = batch.tokens, .table = embedding_view_, .x = x_.data()}, context);
  if (hybrid_) return hybrid_->forward(batch, x_.data(), hidden_out, backend_, context);
  rope_.fill(batch.positions, cos_sin_.data());
  for (const Layer& layer : layers_) {
    norm(layer.input_norm);
    layer.attention.forward(batch, normed_.data(), cos_sin_.data(), *attention_work_, x_.data(), backend_, context);
    norm(layer.ffn_norm);
    if (layer.moe) {
      layer.moe->forward(batch, normed_.data(), *ffn_work_, x_.data(), backend_, context);
    } else {
      layer.dense->forward(rows, normed_.data(), ffn_work_->gate_up, ffn_work_->activated, x_.data(), true, backend_,
                           context);
    }
  }
  for (size_t i = 0; i < batch.output_rows.size(); ++i)
    std::copy_n(x_.data() + batch.output_rows[i] * hidden, hidden, hidden_out + static_cast<int64_t>(i) * hidden);
}

void DeepSeekModel::logits(const float* hidden, int64_t rows, float* out, OpContext& context) {
  const int64_t width = config_.hidden_size;
  for (int64_t begin = 0; begin < rows; begin += max_batch_tokens_) {
    const int64_t count = std::min(max_batch_tokens_, rows - begin);
    backend_.rms_norm({.x = hidden + begin * width,
                       .weight = final_norm_.data(),
                       .y = normed_.data(),
                       .rows = count,
                       .cols = width,
                       .x_stride = width,
                       .eps = static_cast<float>(config_.rms_norm_eps)},
                      context);
    backend_.matmul({.x = normed_.data(),
                     .rows = count,
                     .x_stride = width,
                     .weight = head_[0],
                     .y = out + begin * config_.vocab_size,
                     .y_stride = config_.vocab_size},
                    context);
  }
}

void DeepSeekModel::write_means(const KvPages& kv, const SequenceSpan& span, OpContext& context) const {
  StepBatch batch;
  batch.kv = kv;
  for (const Layer& layer : layers_) layer.attention.write_means(batch, {&span, 1}, backend_, context);
}

KvLayout DeepSeekModel::kv_layout() const { return cache_layout(config_, cache_dtype_); }

int64_t DeepSeekModel::weight_bytes() const {
  int64_t bytes = static_cast<int64_t>(embedding_.size()) + head_.bytes() + (hybrid_ ? hybrid_->weight_bytes() : 0);
  for (const Layer& layer : layers_)
    bytes += layer.attention.weight_bytes() + (layer.moe ? layer.moe->weight_bytes() : layer.dense->weight_bytes());
  return bytes;
}

}  // namespace sluice
