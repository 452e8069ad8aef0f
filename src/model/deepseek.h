// DeepSeek-V2 and DeepSeek-V3: one stack of layers (latent attention, then a dense block or a mixture of experts), the
// two differ in what their config says of the router. Owns the packed weights and one step's activations. The loop
// thread alone calls it.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "model/feed_forward.h"
#include "model/latent_attention.h"
#include "model/rope.h"

namespace sluice {

struct ModelLoadOptions {
  WeightFormat weights = WeightFormat::kAuto;
  DType cache_dtype = DType::kF32;
  int64_t max_batch_tokens = 512;  // rows of the largest step
  LoadProgress progress;
  PackObserver observer;
  PackedCache* packed_cache = nullptr;
};

class DeepSeekModel {
 public:
  // Checks every tensor's presence, shape and dtype before the first one is packed.
  static Result<std::unique_ptr<DeepSeekModel>> load(const ModelConfig& config, const Checkpoint& checkpoint,
                                                     const Backend& backend, OpContext& context,
                                                     const ModelLoadOptions& options);

  // Runs all layers over the batch's rows and writes their cache entries. hidden_out [output_rows, hidden]: the
  // residual stream behind the last layer (before the final norm).
  void forward(const StepBatch& batch, float* hidden_out, OpContext& context);

  // Final norm and head: hidden [rows, hidden] -> logits [rows, vocab].
  void logits(const float* hidden, int64_t rows, float* out, OpContext& context);

  KvLayout kv_layout() const;
  const ModelConfig& config() const { return config_; }
  WeightFormat weights() const { return weights_; }
  DType cache_dtype() const { return cache_dtype_; }
  int64_t max_batch_tokens() const { return max_batch_tokens_; }
  int64_t weight_bytes() const;  // packed, resident

 private:
  struct Layer {
    std::vector<float> input_norm;  // [hidden]
    LatentAttention attention;
    std::vector<float> ffn_norm;  // [hidden]
    std::optional<DenseFeedForward> dense;
    std::optional<MixtureOfExperts> moe;
  };

  DeepSeekModel(const ModelConfig& config, const Backend& backend, const ModelLoadOptions& options,
                WeightFormat weights);
  void load_weights(WeightLoader& loader);

  const ModelConfig config_;
  const Backend& backend_;
  const WeightFormat weights_;
  const DType cache_dtype_;
  const int64_t max_batch_tokens_;
  const RopeTable rope_;

  Buffer embedding_;  // [vocab, hidden] F32 or BF16
  TensorView embedding_view_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;  // [hidden]
  PackedMatrices head_;            // [vocab, hidden]

  LatentAttention::Workspace attention_work_;
  FeedForwardWorkspace ffn_work_;
  std::vector<float> x_;        // [max rows, hidden] the residual stream
  std::vector<float> normed_;   // [max rows, hidden]
  std::vector<float> cos_sin_;  // [max rows, rope]
};

}  // namespace sluice
