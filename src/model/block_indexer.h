// The indexer of DeepSeek-V4: for each token, the index_topk compressed entries of 4 positions that its attention looks
// at. As V3.2's (lightning_indexer.h), but its keys are compressed, too, by a compressor of its own. Owns one layer's
// indexer weights.
#pragma once

#include "base/activations.h"
#include "model/block_compressor.h"

namespace sluice {

class BlockIndexer {
 public:
  BlockIndexer(const ModelConfig& config, int32_t layer, int64_t slot, WeightLoader& loader);

  struct Workspace {
    Workspace(const ModelConfig& config, int64_t max_rows);
    Activations<float> projected;  // [rows, 2, 2, index_head_dim] of the compressor
    Activations<float> query;      // [rows, heads, index_head_dim]
    Activations<float> weights;    // [rows, heads]
  };

  const BlockCompressor& keys() const { return keys_; }
  // query_latent [rows, q_lora_rank], cos_sin [rows, rope] of the rows' positions.
  void project_queries(int64_t rows, const float* normed, const float* query_latent, const float* cos_sin,
                       Workspace& work, const Backend& backend, OpContext& context) const;
  // entries [rows of spans, index_topk]; each row has more than that to choose from.
  void select(const StepBatch& batch, std::span<const SequenceSpan> spans, const Workspace& work, int32_t* entries,
              const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const { return keys_.weight_bytes() + query_proj_.bytes() + weights_proj_.bytes(); }

 private:
  const ModelConfig& config_;
  const int32_t layer_;
  BlockCompressor keys_;
  PackedMatrices query_proj_;    // [heads * index_head_dim, q_lora_rank]
  PackedMatrices weights_proj_;  // [heads, hidden]
};

}  // namespace sluice
