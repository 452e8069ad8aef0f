// The rows of latent attention that look at chosen positions only (DeepSeek-V3.2). A row at position t sees t + 1
// positions: up to index_topk of them the indexer would choose all, so those rows are ordinary attention; the rest goes
// through here, in the absorbed form whatever their role. Which kernel serves a row follows from its position alone.
#pragma once

#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/lightning_indexer.h"
#include "model/row_spans.h"

namespace sluice {

class SparseAttention {
 public:
  SparseAttention(const ModelConfig& config, const Partition& partition, int32_t layer, WeightLoader& loader)
      : config_(config), heads_(static_cast<int32_t>(partition.heads.size())), indexer_(config, layer, loader) {}

  struct Workspace {
    Workspace(const ModelConfig& config, const Partition& partition, int64_t max_rows);
    LightningIndexer::Workspace indexer;
    std::vector<SequenceSpan> block;  // rows that go through the kernels together
    Activations<int32_t> positions;   // [block, index_topk]
    HeadRows head_rows;               // of the block
    Activations<float> absorbed;   // [heads, block, kv_lora_rank]
    Activations<float> latents;    // [heads, block, kv_lora_rank]
    Activations<float> values;     // [heads, block, v]
  };

  // What the layer's own attention lends.
  struct Inputs {
    const float* normed = nullptr;        // [rows, hidden]
    const float* query_latent = nullptr;  // [rows, q_lora_rank]
    const float* query = nullptr;         // [rows, heads, nope + rope], rotated
    const float* cos_sin = nullptr;       // [rows, rope]
    LatentCache latents;                  // the layer's, this step's rows written
    float scale = 0;
    std::span<const Weight> k_up_t, v_up;
    float* attended = nullptr;  // [rows, heads, v]
  };

  // Index keys of all rows of the batch are written, the rows of `spans` attended.
  void forward(const StepBatch& batch, std::span<const SequenceSpan> spans, const Inputs& in, Workspace& work,
               const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const { return indexer_.weight_bytes(); }

 private:
  void attend_block(const StepBatch& batch, const Inputs& in, Workspace& work, const Backend& backend,
                    OpContext& context) const;

  const ModelConfig& config_;
  int32_t heads_;  // this rank's
  LightningIndexer indexer_;
};

}  // namespace sluice
