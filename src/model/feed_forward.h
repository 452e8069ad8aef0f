// The two feed-forward blocks of a DeepSeek layer: the dense SwiGLU network and the mixture of experts
// (DeepSeekMoE, arXiv:2401.06066; routing in RouteArgs).
#pragma once

#include <optional>
#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/config.h"
#include "model/packed_weights.h"

namespace sluice {

// What the three matrices of a block are called.
struct FeedForwardNames {
  const char* gate = "gate_proj.weight";
  const char* up = "up_proj.weight";
  const char* down = "down_proj.weight";
};
constexpr FeedForwardNames kShortNames{"w1.weight", "w3.weight", "w2.weight"};  // V4

// y = down(silu(gate x) * up x), both clamped where there is a limit (SiluMulArgs)
class DenseFeedForward {
 public:
  // `prefix` ends with "mlp." or "shared_experts."; `width` is this rank's part of the `all` inner values.
  DenseFeedForward(const std::string& prefix, int64_t hidden, const Slice& width, int64_t all, WeightLoader& loader,
                   const FeedForwardNames& names = {}, float limit = 0);

  // y = or += the block's output; gate_up [rows, 2 * width] and activated [rows, width] are scratch.
  void forward(int64_t rows, const float* normed, Activations<float>& gate_up, Activations<float>& activated, float* y,
               bool add, const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const { return gate_up_.bytes() + down_.bytes(); }

 private:
  int64_t hidden_, width_;
  float limit_;
  PackedMatrices gate_up_;  // [2 * width, hidden]: gate over up
  PackedMatrices down_;     // [hidden, width]
};

// Activations of the feed-forward blocks, shared by all layers; sized once for the largest step.
struct FeedForwardWorkspace {
  FeedForwardWorkspace(const ModelConfig& config, const Partition& partition, int64_t max_rows);
  Activations<float> gate_up;  // of the dense block, the shared experts, or all routed rows
  Activations<float> activated;
  Activations<float> router_logits;   // [rows, experts]
  Activations<int32_t> experts;       // [rows, top_k]
  Activations<float> expert_weights;  // [rows, top_k]
  Activations<int32_t> offsets;       // [experts + 1]
  Activations<int32_t> own_offsets;   // [own experts + 1], from this rank's first row on
  Activations<int32_t> row_ids;       // [rows * top_k]
  Activations<int32_t> places;        // [rows, top_k]
  Activations<float> expert_out;      // [rows * top_k, hidden]
  Activations<float> shared_out;      // [rows, hidden]
};

// The experts of a layer without their router: this rank's own, or its slice of all of them. What the other ranks'
// would give counts as zero here: the sum over ranks brings it. A device that keeps experts with the host has them alone.
class RoutedExperts {
 public:
  RoutedExperts(const ModelConfig& config, const Partition& partition, int32_t layer, WeightLoader& loader);

  // x += sum of the experts in work.experts, weighted by work.expert_weights, + `shared` [rows, hidden] or null.
  void forward(int64_t rows, const float* normed, FeedForwardWorkspace& work, const float* shared, float* x,
               const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const { return gate_up_.bytes() + down_.bytes(); }

 private:
  const ModelConfig& config_;
  int64_t first_expert_, num_own_experts_, width_;
  float limit_;             // of the activation; 0: none
  PackedMatrices gate_up_;  // own experts x [2 * width, hidden]
  PackedMatrices down_;     // own experts x [hidden, width]
};

// Every rank routes every row, since all hold the same activations.
class MixtureOfExperts {
 public:
  MixtureOfExperts(const ModelConfig& config, const Partition& partition, int32_t layer, WeightLoader& loader);

  // x += sum of the chosen experts, weighted, + the shared experts; this rank's part of it.
  void forward(const StepBatch& batch, const float* normed, FeedForwardWorkspace& work, float* x,
               const Backend& backend, OpContext& context) const;

  int64_t weight_bytes() const;

 private:
  const ModelConfig& config_;
  int32_t layer_;
  PackedMatrices router_;                 // [experts, hidden]
  std::vector<float> bias_;               // [experts] or empty
  std::vector<int32_t> table_;            // [vocab, top_k] of a hash-routed layer (V4), or empty
  std::optional<RoutedExperts> routed_;
  std::vector<DenseFeedForward> shared_;  // none or one, as wide as all shared experts together
};

}  // namespace sluice
