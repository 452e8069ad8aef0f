// Hyper-connections of DeepSeek-V4: a token travels as several residual streams; each block (attention, feed-forward)
// takes a weighted sum of them and gives its output back to all, while they mix. The weights follow from the streams
// themselves (HyperWeightsArgs has the formulas). Owns one site's projection; the last site only collapses.
#pragma once

#include <string>
#include <vector>

#include "base/activations.h"
#include "model/config.h"
#include "model/packed_weights.h"

namespace sluice {

class HyperConnection {
 public:
  enum class Kind : uint8_t { kBlock, kHead };

  // `prefix` is "layers.N.hc_attn", "layers.N.hc_ffn" or "hc_head".
  HyperConnection(const ModelConfig& config, const std::string& prefix, Kind kind, WeightLoader& loader);

  struct Workspace {
    Workspace(const ModelConfig& config, int64_t max_rows);
    Activations<float> normed;  // [rows, streams * hidden]
    Activations<float> logits;  // [rows, 2 n + n n]
    Activations<float> pre;     // [rows, n]
    Activations<float> post;    // [rows, n]
    Activations<float> mix;     // [rows, n, n]
  };

  // u = what goes into the block [rows, hidden]; the weights for expand() stay in `work`.
  void collapse(int64_t rows, const float* streams, Workspace& work, float* u, const Backend& backend,
                OpContext& context) const;
  // Streams with the block's output y [rows, hidden], in place.
  void expand(int64_t rows, const float* y, const Workspace& work, float* streams, const Backend& backend,
              OpContext& context) const;

  int64_t weight_bytes() const { return fn_.bytes(); }

 private:
  const ModelConfig& config_;
  const bool is_block_;
  PackedMatrices fn_;         // [2 n + n n, n * hidden], or [n, n * hidden]; F32 in every format
  std::vector<float> base_;   // [2 n + n n], or [n]
  std::vector<float> scale_;  // [3], or [1]
};

}  // namespace sluice
