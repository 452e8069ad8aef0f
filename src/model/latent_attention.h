// Multi-head latent attention (MLA, arXiv:2405.04434 section 2.1) as one layer of the stack runs it: projections, cache
// write, attention in the form that each token's role asks for, output projection onto the residual stream.
#pragma once

#include <optional>
#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/block_attention.h"
#include "model/config.h"
#include "model/packed_weights.h"
#include "model/sparse_attention.h"

namespace sluice {

class LatentAttention {
 public:
  // Over a bf16 cache the expanded form multiplies bf16 by bf16, so its projections are kept in bf16 (else f32 where
  // the model is). The absorbed form's are streamed once per token and kept in 8 bits in quantised models.
  // Holds the partition's heads; what makes the latents is whole on every rank, and so is their cache.
  LatentAttention(const ModelConfig& config, const Partition& partition, int32_t layer, DType cache_dtype,
                  WeightLoader& loader);

  // Activations shared by all layers; sized once for the largest step.
  struct Workspace {
    Workspace(const ModelConfig& config, const Partition& partition, int64_t max_rows);
    Activations<float> query_latent;  // [rows, q_lora_rank]
    Activations<float> query;         // [rows, heads, nope + rope]
    Activations<float> kv_latent;     // [rows, kv_lora_rank + rope]
    Activations<float> attended;      // [rows, heads, v]
    SpanSplit prompt, generated;      // dense rows below, sparse ones above
    std::optional<SparseAttention::Workspace> sparse;
    std::optional<BlockAttention::Workspace> blocks;
  };

  // Means of the pages that the spans cover whole, whose latents are in the cache; nothing without block attention.
  void write_means(const StepBatch& batch, std::span<const SequenceSpan> spans, const Backend& backend,
                   OpContext& context) const;

  // x += this rank's heads of attention(normed); cos_sin [rows, rope]. `layer_slot` is this layer's index within the
  // latent cache group.
  void forward(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work, float* x,
               const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const;

 private:
  void project_query(int64_t rows, const float* normed, Workspace& work, const Backend& backend,
                     OpContext& context) const;
  void project_latent(int64_t rows, const float* normed, Workspace& work, const Backend& backend,
                      OpContext& context) const;
  LatentCache latents_of(const KvPages& kv) const;
  void attend(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work,
              const Backend& backend, OpContext& context) const;

  const ModelConfig& config_;
  int32_t layer_;
  int32_t heads_;  // this rank's
  float scale_;
  RopeLayout layout_;
  std::optional<PackedMatrices> q_a_proj_;       // [q_lora_rank, hidden]
  std::vector<float> q_a_norm_;                  // [q_lora_rank]
  PackedMatrices q_proj_;                        // [heads * (nope + rope), q_lora_rank or hidden]
  PackedMatrices kv_a_proj_;                     // [kv_lora_rank + rope, hidden]
  std::vector<float> kv_a_norm_;                 // [kv_lora_rank]
  PackedMatrices k_up_;                          // heads x [nope, kv_lora_rank]
  PackedMatrices k_up_t_;                        // heads x [kv_lora_rank, nope]
  PackedMatrices v_up_;                          // heads x [v, kv_lora_rank]
  std::optional<PackedMatrices> v_up_absorbed_;  // the same for the absorbed form, where its format differs
  PackedMatrices o_proj_;                        // [hidden, heads * v]
  std::optional<SparseAttention> sparse_;        // V3.2
  std::optional<BlockAttention> blocks_;         // where the operator asked for it
};

}  // namespace sluice
