// Attention of DeepSeek-V4 as one layer of the stack runs it: one vector per position is key and value of all heads; a
// window of them is attended, and, by the layer's compress ratio, nothing else (0), the entries of 4 positions that an
// indexer chooses (4), or all entries of 128 positions (128). The output projection goes through groups of heads.
#pragma once

#include <optional>
#include <vector>

#include "base/activations.h"
#include "model/block_compressor.h"
#include "model/block_indexer.h"
#include "model/row_spans.h"

namespace sluice {

// Angles of a step's rows, each [rows, rope]: cosines, then sines.
struct HybridAngles {
  const float* window = nullptr;    // layers without compressed entries
  const float* position = nullptr;  // layers with: of the row's position
  const float* block4 = nullptr;    // of the first position of its block of 4
  const float* block128 = nullptr;
};

class WindowAttention {
 public:
  WindowAttention(const ModelConfig& config, int32_t layer, WeightLoader& loader);

  struct Workspace {
    Workspace(const ModelConfig& config, int64_t max_rows);
    Activations<float> query_latent;  // [rows, q_lora_rank]
    Activations<float> query;         // [rows, heads, head_dim]
    Activations<float> vector;        // [rows, head_dim]
    Activations<float> projected;     // [rows, 2, series, head_dim] of the compressor
    Activations<float> attended;      // [rows, heads, head_dim]
    Activations<int32_t> offsets;  // [groups + 1] of the grouped product: group g has rows [g * rows, (g + 1) * rows)
    Activations<int32_t> row_ids;  // [groups, rows] -> row * groups + group
    Activations<float> grouped;    // [groups, rows, o_lora_rank]
    Activations<float> joined;     // [rows, groups * o_lora_rank]
    SpanSplit split;               // rows that see all entries below, rows that choose above
    std::vector<SequenceSpan> block;  // rows that choose together
    Activations<int32_t> entries;     // [block, index_topk]
    BlockIndexer::Workspace indexer;
  };

  // y = attention(normed), both [rows, hidden]; `spans` are all of the batch's.
  void forward(const StepBatch& batch, std::span<const SequenceSpan> spans, const float* normed,
               const HybridAngles& angles, Workspace& work, float* y, const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const;

 private:
  void project(int64_t rows, const float* normed, const float* cos_sin, Workspace& work, const Backend& backend,
               OpContext& context) const;
  void attend_chosen(const StepBatch& batch, WindowAttentionArgs& args, Workspace& work, const Backend& backend,
                     OpContext& context) const;
  void project_out(int64_t rows, Workspace& work, float* y, const Backend& backend, OpContext& context) const;

  const ModelConfig& config_;
  const int32_t layer_;
  const int32_t ratio_;
  PackedMatrices q_a_proj_;                    // [q_lora_rank, hidden]
  std::vector<float> q_norm_;                  // [q_lora_rank]
  PackedMatrices q_b_proj_;                    // [heads * head_dim, q_lora_rank]
  PackedMatrices kv_proj_;                     // [head_dim, hidden]
  std::vector<float> kv_norm_;                 // [head_dim]
  std::vector<float> sinks_;                   // [heads]
  PackedMatrices o_a_proj_;                    // groups x [o_lora_rank, heads / groups * head_dim]
  PackedMatrices o_b_proj_;                    // [hidden, groups * o_lora_rank]
  std::optional<BlockCompressor> compressor_;  // ratio 4 and 128
  std::optional<BlockIndexer> indexer_;        // ratio 4
};

}  // namespace sluice
