// Rotary angles (arXiv:2104.09864) with YaRN (arXiv:2309.00071) as the DeepSeek configs use it, and the softmax scale
// that goes with it.
#pragma once

#include <span>
#include <vector>

#include "model/config.h"

namespace sluice {

class RopeTable {
 public:
  explicit RopeTable(const ModelConfig& config);
  RopeTable(int32_t dim, double theta, const std::optional<YarnConfig>& yarn);

  // out[rows, dim]: dim/2 cosines, then dim/2 sines, of each row's position.
  void fill(std::span<const int32_t> positions, float* out) const;

  int32_t dim() const { return 2 * static_cast<int32_t>(inv_freq_.size()); }
  const std::vector<float>& inv_freq() const { return inv_freq_; }

 private:
  std::vector<float> inv_freq_;  // [dim / 2]
  float attention_factor_ = 1;   // multiplies cosines and sines
};

// V4: layers without compressed entries have plain angles; the others another base and YaRN, which leaves the length of
// cosines and sines alone unless the file says otherwise.
RopeTable window_rope(const ModelConfig& config);
RopeTable block_rope(const ModelConfig& config);

// (nope + rope)^-0.5, times m^2 with m = 0.1 * mscale_all_dim * ln(factor) + 1 where YaRN gives mscale_all_dim: the
// trained V2 and V3 checkpoints need it.
float softmax_scale(const ModelConfig& config);

}  // namespace sluice
