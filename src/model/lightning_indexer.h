// The lightning indexer of DeepSeek-V3.2: for each token, the index_topk positions that its attention looks at. A small
// attention of its own - a key per position, a few heads that share it - whose scores choose instead of mix. Owns one
// layer's indexer weights.
#pragma once

#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/config.h"
#include "model/packed_weights.h"

namespace sluice {

class LightningIndexer {
 public:
  LightningIndexer(const ModelConfig& config, int32_t layer, WeightLoader& loader);

  struct Workspace {
    Workspace(const ModelConfig& config, int64_t max_rows);
    Activations<float> key;      // [rows, head_dim]
    Activations<float> query;    // [rows, heads, head_dim]
    Activations<float> weights;  // [rows, heads]
  };

  // Keys of all rows into the index cache; normed [rows, hidden].
  void write_keys(const StepBatch& batch, const float* normed, const float* cos_sin, Workspace& work,
                  const Backend& backend, OpContext& context) const;

  // Queries and head weights of all rows into `work`; query_latent [rows, q_lora_rank], normalised.
  void project_queries(int64_t rows, const float* normed, const float* query_latent, const float* cos_sin,
                       Workspace& work, const Backend& backend, OpContext& context) const;

  // positions [rows of the spans, index_topk], ascending; keys are written and queries projected before.
  void select(const StepBatch& batch, std::span<const SequenceSpan> spans, const Workspace& work, int32_t* positions,
              const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const { return query_proj_.bytes() + key_proj_.bytes() + weights_proj_.bytes(); }

 private:
  LatentCache cache_of(const KvPages& kv) const;

  const ModelConfig& config_;
  int32_t layer_;
  PackedMatrices query_proj_;    // [heads * head_dim, q_lora_rank]
  PackedMatrices key_proj_;      // [head_dim, hidden]
  PackedMatrices weights_proj_;  // [heads, hidden], never quantised
  std::vector<float> key_norm_;  // [head_dim]
  std::vector<float> key_bias_;  // [head_dim]
};

}  // namespace sluice
