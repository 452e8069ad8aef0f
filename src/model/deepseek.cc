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
  if (config.grouped) return GroupedAttention::check_supported(config, backend);
  // What the kernels ask of the shapes beyond what the config's own rules say.
  if (config.kv_lora_rank % 16 != 0)
    return failed_precondition("config.json: kv_lora_rank: expected a multiple of 16, found {}", config.kv_lora_rank);
  return {};
}

Result<std::unique_ptr<DeepSeekModel>> DeepSeekModel::load(const ModelConfig& config, const Checkpoint& checkpoint,
                                                           const Backend& backend, OpContext& context,
                                                           const ModelLoadOptions& options) {
  SLUICE_RETURN_IF_ERROR(check_supported(config, backend));
  SLUICE_RETURN_IF_ERROR(check_cache_dtype(config, options.cache_dtype));
  for (const TensorSpec& spec : required_tensors(config)) {
    SLUICE_RETURN_IF_ERROR(checkpoint.expect(spec));
    if (options.weights == WeightFormat::kAuto && spec.shape.rank == 2)
      SLUICE_RETURN_IF_ERROR(checkpoint.expect_exact(spec.name, spec.shape[1]));
  }
  if (config.hybrid) SLUICE_RETURN_IF_ERROR(HybridStack::check_tables(config, checkpoint));
  WeightLoader loader(checkpoint, packing_of(backend), options.weights, context, options.progress, options.observer,
                      options.packed_cache);
  if (options.measure_only) loader.measure_only();
  if (!backend.supports(loader.format()))
    return failed_precondition("weights: {} is not supported on device {}; --weights names another format",
                               name(loader.format()), backend.name);
  // Which pages a row attends to follows from the sum over all heads.
  if (options.num_ranks > 1 && config.block_global)
    return failed_precondition("tp: attention block_global runs on one rank, asked for {}", options.num_ranks);
  SLUICE_ASSIGN_OR_RETURN(const Partition partition,
                          Partition::make(config, loader.format(), options.rank, options.num_ranks, options.experts));
  const int64_t others = sluice::activation_bytes();
  std::unique_ptr<DeepSeekModel> model(new DeepSeekModel(config, backend, options, loader.format(), partition));
  model->load_weights(loader);
  model->activation_bytes_ = sluice::activation_bytes() - others;
  if (options.packed_cache) options.packed_cache->finish();
  return model;
}

DeepSeekModel::DeepSeekModel(const ModelConfig& config, const Backend& backend, const ModelLoadOptions& options,
                             WeightFormat weights, const Partition& partition)
    : config_(config),
      backend_(backend),
      weights_(weights),
      cache_dtype_(options.cache_dtype),
      max_batch_tokens_(options.max_batch_tokens),
      partition_(partition),
      rope_(config) {
  if (!config.hybrid) {
    if (config.grouped) {
      grouped_work_.emplace(config_, options.max_batch_tokens);
    } else {
      latent_work_.emplace(config_, partition, options.max_batch_tokens);
    }
    ffn_work_.emplace(config_, partition, options.max_batch_tokens);
  }
  const auto rows = static_cast<size_t>(max_batch_tokens_);
  x_.resize(rows * static_cast<size_t>(config.hidden_size));
  normed_.resize(x_.size());
  cos_sin_.resize(rows * static_cast<size_t>(config.qk_rope_head_dim));
}

void DeepSeekModel::load_weights(WeightLoader& loader) {
  const Slice& vocab = partition_.vocab;
  const int64_t hidden = config_.hidden_size;
  const bool v4 = config_.hybrid.has_value();
  const std::string embed = v4 ? "embed.weight" : "model.embed_tokens.weight";
  const bool wide = weights_ == WeightFormat::kF32 || loader.checkpoint().dtype(embed) == DType::kF32;
  embedding_bytes_ = vocab.size() * hidden * (wide ? 4 : 2);
  if (!loader.measures()) embedding_ = Buffer(static_cast<size_t>(embedding_bytes_));
  embedding_view_ = {embedding_.data(), wide ? DType::kF32 : DType::kBF16, Shape{vocab.size(), hidden}};
  const auto read_embedding = [&] {
    std::vector<float> row(static_cast<size_t>(hidden));
    for (int64_t token = 0; token < vocab.size(); ++token) {
      loader.checkpoint().read_rows(embed, vocab.begin + token, 1, row.data());
      if (wide) {
        std::memcpy(embedding_.as<float>() + token * hidden, row.data(), row.size() * sizeof(float));
      } else {
        std::transform(row.begin(), row.end(), embedding_.as<uint16_t>() + token * hidden, f32_to_bf16);
      }
    }
  };
  if (!loader.measures()) loader.fill(embedding_, read_embedding);
  if (v4) hybrid_.emplace(config_, max_batch_tokens_, loader);
  for (int32_t index = 0; !v4 && index < config_.num_hidden_layers; ++index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    Layer layer{.input_norm = loader.vector(prefix + "input_layernorm.weight", hidden),
                .latent = {},
                .grouped = {},
                .ffn_norm = loader.vector(prefix + "post_attention_layernorm.weight", hidden),
                .dense = {},
                .moe = {}};
    if (config_.grouped) {
      layer.grouped.emplace(config_, index, loader);
    } else {
      layer.latent.emplace(config_, partition_, index, cache_dtype_, loader);
    }
    if (config_.is_moe_layer(index)) {
      layer.moe.emplace(config_, partition_, index, loader);
    } else {
      layer.dense.emplace(prefix + "mlp.", hidden, partition_.dense_width, config_.intermediate_size, loader);
    }
    layers_.push_back(std::move(layer));
  }
  final_norm_ = loader.vector(v4 ? "norm.weight" : "model.norm.weight", hidden);
  const std::string head = v4 ? "head.weight" : "lm_head.weight";
  head_ = loader.pack({loader.rows_of(config_.tie_word_embeddings ? embed : head, vocab, hidden)});
}

void DeepSeekModel::join(Communicator& ranks) {
  SLUICE_CHECK(ranks.rank() == partition_.rank && ranks.size() == partition_.num_ranks,
               "part {} of {} joins as rank {} of {}", partition_.rank, partition_.num_ranks, ranks.rank(),
               ranks.size());
  ranks_ = &ranks;
}

// x = the embeddings of the tokens that this rank holds, zero for the others.
void DeepSeekModel::embed(std::span<const TokenId> tokens, OpContext& context) {
  const Slice& vocab = partition_.vocab;
  const auto is_own = [&](TokenId token) { return token >= vocab.begin && token < vocab.end; };
  own_tokens_.clear();
  for (const TokenId token : tokens)
    own_tokens_.push_back(is_own(token) ? token - static_cast<TokenId>(vocab.begin) : TokenId{0});
  backend_.embed({.tokens = own_tokens_, .table = embedding_view_, .x = x_.data()}, context);
  for (size_t row = 0; row < tokens.size(); ++row)
    if (!is_own(tokens[row]))
      std::fill_n(x_.data() + static_cast<int64_t>(row) * config_.hidden_size, config_.hidden_size, 0.0f);
}

// Rank 0 adds its part to the residual stream, the others to nothing: the sum over ranks is the stream again.
void DeepSeekModel::begin_part(int64_t rows) {
  if (!partition_.first()) std::fill_n(x_.data(), rows * config_.hidden_size, 0.0f);
}

Status DeepSeekModel::sum_parts(int64_t rows) {
  if (partition_.num_ranks == 1) return {};
  return ranks_->all_reduce_sum(std::span(x_).first(static_cast<size_t>(rows * config_.hidden_size)));
}

Status DeepSeekModel::forward(const StepBatch& batch, float* hidden_out, OpContext& context) {
  const auto rows = static_cast<int64_t>(batch.tokens.size());
  SLUICE_CHECK(rows <= max_batch_tokens_, "rows={} max={}", rows, max_batch_tokens_);
  SLUICE_CHECK(partition_.num_ranks == 1 || ranks_ != nullptr, "rank {} has not joined", partition_.rank);
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

  embed(batch.tokens, context);
  SLUICE_RETURN_IF_ERROR(sum_parts(rows));
  if (hybrid_) {
    hybrid_->forward(batch, x_.data(), hidden_out, backend_, context);
    return {};
  }
  rope_.fill(batch.positions, cos_sin_.data());
  for (const Layer& layer : layers_) {
    norm(layer.input_norm);
    begin_part(rows);
    if (layer.grouped) {
      layer.grouped->forward(batch, normed_.data(), cos_sin_.data(), *grouped_work_, x_.data(), backend_, context);
    } else {
      layer.latent->forward(batch, normed_.data(), cos_sin_.data(), *latent_work_, x_.data(), backend_, context);
    }
    SLUICE_RETURN_IF_ERROR(sum_parts(rows));
    norm(layer.ffn_norm);
    begin_part(rows);
    if (layer.moe) {
      layer.moe->forward(batch, normed_.data(), *ffn_work_, x_.data(), backend_, context);
    } else {
      layer.dense->forward(rows, normed_.data(), ffn_work_->gate_up, ffn_work_->activated, x_.data(), true, backend_,
                           context);
    }
    SLUICE_RETURN_IF_ERROR(sum_parts(rows));
  }
  for (size_t i = 0; i < batch.output_rows.size(); ++i)
    std::copy_n(x_.data() + batch.output_rows[i] * hidden, hidden, hidden_out + static_cast<int64_t>(i) * hidden);
  return {};
}

void DeepSeekModel::logits(const float* hidden, int64_t rows, float* out, OpContext& context) {
  const int64_t width = config_.hidden_size, vocab = partition_.vocab.size();
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
                     .y = out + begin * vocab,
                     .y_stride = vocab},
                    context);
  }
}

void DeepSeekModel::write_means(const KvPages& kv, const SequenceSpan& span, OpContext& context) const {
  StepBatch batch;
  batch.kv = kv;
  for (const Layer& layer : layers_) {
    if (layer.grouped) layer.grouped->write_means(batch, {&span, 1}, backend_, context);
    if (layer.latent) layer.latent->write_means(batch, {&span, 1}, backend_, context);
  }
}

KvLayout DeepSeekModel::kv_layout() const { return cache_layout(config_, cache_dtype_); }

int64_t DeepSeekModel::weight_bytes() const {
  int64_t bytes = embedding_bytes_ + head_.bytes() + (hybrid_ ? hybrid_->weight_bytes() : 0);
  for (const Layer& layer : layers_)
    bytes += (layer.grouped ? layer.grouped->weight_bytes() : layer.latent->weight_bytes()) +
             (layer.moe ? layer.moe->weight_bytes() : layer.dense->weight_bytes());
  return bytes;
}

}  // namespace sluice
