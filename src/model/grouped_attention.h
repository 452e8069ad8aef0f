// Grouped-query attention (GQA, arXiv:2305.13245) with normalised queries and keys, as one layer of Qwen3-MoE runs it:
// projections, RMSNorm of every head, rotation, cache write, attention in the form that each token's role asks for,
// output projection onto the residual stream. The counterpart of LatentAttention; on one rank alone.
#pragma once

#include <optional>
#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/block_attention.h"
#include "model/config.h"
#include "model/packed_weights.h"

namespace sluice {

class GroupedAttention {
 public:
  // FAILED_PRECONDITION for shapes that the kernels do not take, or a device without them. config.grouped is given.
  static Status check_supported(const ModelConfig& config, const Backend& backend);

  GroupedAttention(const ModelConfig& config, int32_t layer, WeightLoader& loader);

  // Activations shared by all layers; sized once for the largest step.
  struct Workspace {
    Workspace(const ModelConfig& config, int64_t max_rows);
    Activations<float> query;       // [rows, heads, head_dim]
    Activations<float> key, value;  // [rows, kv_heads, head_dim]
    Activations<float> attended;    // [rows, heads, head_dim]
    SpanSplit prompt, generated;    // with block attention: rows below its budget, and above
    std::optional<BlockAttention::Workspace> blocks;
  };

  // Means of the pages that the spans cover whole, whose keys are in the cache; nothing without block attention.
  void write_means(const StepBatch& batch, std::span<const SequenceSpan> spans, const Backend& backend,
                   OpContext& context) const;

  // x += attention(normed); cos_sin [rows, head_dim].
  void forward(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work, float* x,
               const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const { return q_proj_.bytes() + k_proj_.bytes() + v_proj_.bytes() + o_proj_.bytes(); }

 private:
  void project(int64_t rows, const float* normed, const float* cos_sin, Workspace& work, const Backend& backend,
               OpContext& context) const;
  void attend(const StepBatch& batch, Workspace& work, const Backend& backend, OpContext& context) const;
  LatentCache cache_of(const KvPages& kv, size_t group) const;

  const ModelConfig& config_;
  int32_t layer_;
  PackedMatrices q_proj_;                 // [heads * head_dim, hidden]
  PackedMatrices k_proj_;                 // [kv_heads * head_dim, hidden]
  PackedMatrices v_proj_;                 // [kv_heads * head_dim, hidden]
  PackedMatrices o_proj_;                 // [hidden, heads * head_dim]
  std::vector<float> q_norm_;             // [head_dim], of every head
  std::vector<float> k_norm_;             // [head_dim]
  std::optional<BlockAttention> blocks_;  // where the operator asked for it
};

}  // namespace sluice
