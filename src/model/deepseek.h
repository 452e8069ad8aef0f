// DeepSeek-V2, -V3 and -V3.2: one stack of layers (latent attention, then a dense block or a mixture of experts). V2
// and V3 differ in what their config says of the router; V3.2 is V3 with an indexer beside the attention. Qwen3-MoE is
// the same stack with grouped-query attention. V4 shares what stands before and behind the layers; those are a
// HybridStack. Owns the packed weights and one step's
// activations. The loop thread alone calls it.
//
// Of a model over several ranks each holds a part (partition.h) and computes all rows. The residual stream meets in the
// middle of every layer and at its end: rank 0 adds its part to it, the others start from zero, and the sum over ranks
// is the stream again, the same bits on all of them.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "sluice/communicator.h"

#include "base/activations.h"
#include "model/feed_forward.h"
#include "model/grouped_attention.h"
#include "model/hybrid_stack.h"
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
  bool measure_only = false;  // of weight_bytes() and activation_bytes() alone: no weight is packed, nothing can run
  int rank = 0, num_ranks = 1;
  ExpertSplit experts = ExpertSplit::kSliced;
};

class DeepSeekModel {
 public:
  // FAILED_PRECONDITION for a model that can be read and inspected but not run on this backend. load() asks, too; ask
  // before anything is read that only models which run have.
  static Status check_supported(const ModelConfig& config, const Backend& backend);

  // Checks every tensor's presence, shape and dtype before the first one is packed.
  static Result<std::unique_ptr<DeepSeekModel>> load(const ModelConfig& config, const Checkpoint& checkpoint,
                                                     const Backend& backend, OpContext& context,
                                                     const ModelLoadOptions& options);

  // The ranks that hold the other parts; before the first forward(), and outlives the model. One rank needs none.
  void join(Communicator& ranks);
  bool joined() const { return ranks_ != nullptr; }
  Communicator& ranks() { return *ranks_; }  // once joined

  // Runs all layers over the batch's rows and writes their cache entries. hidden_out [output_rows, hidden]: the
  // residual stream behind the last layer (before the final norm). Fails only with the ranks: UNAVAILABLE, and what was
  // written means nothing.
  Status forward(const StepBatch& batch, float* hidden_out, OpContext& context);

  // Final norm and this rank's rows of the head: hidden [rows, hidden] -> logits [rows, partition().vocab].
  void logits(const float* hidden, int64_t rows, float* out, OpContext& context);

  // What forward() keeps of whole pages beside their positions' entries, for entries that came from elsewhere: the
  // benches' seeded ones. Nothing without block attention.
  void write_means(const KvPages& kv, const SequenceSpan& span, OpContext& context) const;

  KvLayout kv_layout() const;
  const ModelConfig& config() const { return config_; }
  const Partition& partition() const { return partition_; }
  WeightFormat weights() const { return weights_; }
  DType cache_dtype() const { return cache_dtype_; }
  int64_t max_batch_tokens() const { return max_batch_tokens_; }
  int64_t weight_bytes() const;  // packed, resident
  int64_t activation_bytes() const { return activation_bytes_; }  // of the largest step

 private:
  struct Layer {
    std::vector<float> input_norm;  // [hidden]
    std::optional<LatentAttention> latent;    // or
    std::optional<GroupedAttention> grouped;  // Qwen3-MoE
    std::vector<float> ffn_norm;  // [hidden]
    std::optional<DenseFeedForward> dense;
    std::optional<MixtureOfExperts> moe;
  };

  DeepSeekModel(const ModelConfig& config, const Backend& backend, const ModelLoadOptions& options,
                WeightFormat weights, const Partition& partition);
  void load_weights(WeightLoader& loader);
  void embed(std::span<const TokenId> tokens, OpContext& context);
  void begin_part(int64_t rows);
  Status sum_parts(int64_t rows);

  const ModelConfig config_;
  const Backend& backend_;
  const WeightFormat weights_;
  const DType cache_dtype_;
  const int64_t max_batch_tokens_;
  const Partition partition_;
  const RopeTable rope_;
  Communicator* ranks_ = nullptr;  // null: not joined yet

  int64_t activation_bytes_ = 0, embedding_bytes_ = 0;
  Buffer embedding_;  // [own vocab, hidden] F32 or BF16
  TensorView embedding_view_;
  std::vector<Layer> layers_;
  std::optional<HybridStack> hybrid_;  // V4, instead of layers_
  std::vector<float> final_norm_;  // [hidden]
  PackedMatrices head_;            // [own vocab, hidden]

  std::optional<LatentAttention::Workspace> latent_work_;    // with layers_: that of their kind
  std::optional<GroupedAttention::Workspace> grouped_work_;
  std::optional<FeedForwardWorkspace> ffn_work_;
  Activations<float> x_;        // [max rows, hidden] the residual stream
  Activations<float> normed_;   // [max rows, hidden]
  Activations<float> cos_sin_;  // [max rows, rope]
  std::vector<TokenId> own_tokens_;  // [rows] as rows of this rank's embedding
};

}  // namespace sluice
