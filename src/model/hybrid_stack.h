// The layers of DeepSeek-V4 between embedding and final norm: residual streams, windowed attention with compressed
// entries, a mixture of experts in every layer. Owns the layers' weights and one step's activations. Called by
// DeepSeekModel on the loop thread.
#pragma once

#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/feed_forward.h"
#include "model/hyper_connection.h"
#include "model/rope.h"
#include "model/window_attention.h"

namespace sluice {

class HybridStack {
 public:
  // FAILED_PRECONDITION for shapes that the kernels do not take, or a device without them.
  static Status check_supported(const ModelConfig& config, const Backend& backend);
  // FAILED_PRECONDITION for a table of hash-routed experts that names an expert which does not exist.
  static Status check_tables(const ModelConfig& config, const Checkpoint& checkpoint);

  HybridStack(const ModelConfig& config, int64_t max_rows, WeightLoader& loader);

  // embedded [rows, hidden] -> hidden_out [output_rows, hidden], the collapsed streams behind the last layer.
  void forward(const StepBatch& batch, const float* embedded, float* hidden_out, const Backend& backend,
               OpContext& context);

  int64_t weight_bytes() const;

 private:
  struct Layer {
    HyperConnection attention_site;
    std::vector<float> attention_norm;  // [hidden]
    WindowAttention attention;
    HyperConnection ffn_site;
    std::vector<float> ffn_norm;  // [hidden]
    MixtureOfExperts moe;
  };

  HybridAngles fill_angles(std::span<const int32_t> positions);

  const ModelConfig& config_;
  const RopeTable window_rope_, block_rope_;
  std::vector<Layer> layers_;
  HyperConnection head_;

  HyperConnection::Workspace hyper_work_;
  WindowAttention::Workspace attention_work_;
  FeedForwardWorkspace ffn_work_;
  std::vector<SequenceSpan> spans_;   // all of the step
  Activations<int32_t> block_begin_;  // [rows] first position of a row's block
  Activations<float> angles_[4];      // [rows, rope] of HybridAngles
  Activations<float> streams_;        // [rows, streams, hidden]
  Activations<float> normed_;         // [rows, hidden] into a block
  Activations<float> output_;         // [rows, hidden] out of it
};

}  // namespace sluice
