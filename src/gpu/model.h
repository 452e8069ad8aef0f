// DeepSeek-V2 and -V3 on a CUDA device: the forward pass of src/model/deepseek.h over device memory, in bf16 with sums in
// f32. It does not go through the op table: there, rows are f32 and every op ends before the next begins; here rows are
// bf16, sums are folded into the next norm, sizes are known to the device alone, and a whole step is written down as a
// graph. What both share is the config, the loader of weights and the order of the stages. Owns the packed weights and
// the workspace on the device; the loop thread alone calls it, and nothing waits.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "gpu/host_experts.h"
#include "gpu/memory_plan.h"
#include "gpu/packing.h"
#include "gpu/step.h"
#include "gpu/workspace.h"

namespace sluice {

struct GpuModelOptions {
  WeightFormat weights = WeightFormat::kAuto;
  int32_t max_batch_tokens = 512;  // rows of the largest step
  int32_t context_length = 4096;
  LoadProgress progress;
  PackedCache* packed_cache = nullptr;  // of what goes onto the device
  int32_t host_layers = 0;              // layers of experts, the last ones, that stay with the host
  const Backend* host_backend = nullptr;  // whose kernels compute them
};

class GpuModel {
 public:
  // FAILED_PRECONDITION naming the field of config.json that no kernel serves, found and expected.
  static Status check_supported(const ModelConfig& config);
  static Status check_weights(WeightFormat weights);

  // Bytes on the device, known before anything is read.
  static KvLayout page_layout(const ModelConfig& config);
  // Matrices that a ready-made quantised checkpoint keeps wide stay wide with auto.
  static int64_t planned_weight_bytes(const ModelConfig& config, const Checkpoint& checkpoint, WeightFormat wanted,
                                      int32_t host_layers = 0);
  static int64_t planned_workspace_bytes(const ModelConfig& config, WeightFormat weights, const StepLimits& limits);

  // Whether the host keeps the experts of `layer`, if it keeps those of the last `host_layers` layers that have some.
  static bool is_hosted(const ModelConfig& config, int32_t layer, int32_t host_layers);

  // `context` lends threads for packing, and for experts of the host as long as the model lives.
  static Result<std::unique_ptr<GpuModel>> load(const ModelConfig& config, const Checkpoint& checkpoint, Device& device,
                                                OpContext& context, const GpuModelOptions& options);

  // Puts the batch's input on its way to the device.
  Result<GpuStep> stage(const StepBatch& batch, int32_t padded_rows);
  // All layers over the step's rows; writes their cache entries into `pages` and the hidden states that were asked for
  // into hidden(). May be captured: what differs from step to step is in the staged block.
  Status forward(const GpuStep& step, std::byte* pages);
  // Final norm and head over rows of hidden states, at most kGpuLogitsRows, into logits().
  void compute_logits(const cuda::bf16* hidden, int32_t rows);

  cuda::bf16* hidden() const { return work_->outputs; }  // [outputs, hidden_size], before the final norm
  float* logits() const { return work_->logits; }       // [rows, vocab_size]
  // What the router chose in the last step: [moe layers, rows, top_k].
  const int32_t* routed_experts() const { return work_->experts; }
  const float* routed_weights() const { return work_->expert_weights; }

  const KvLayout& kv_layout() const { return kv_; }
  const ModelConfig& config() const { return config_; }
  WeightFormat weights() const { return weights_; }
  int32_t max_batch_tokens() const { return limits_.max_rows; }
  int64_t weight_bytes() const { return weight_bytes_; }  // on the device
  int64_t host_weight_bytes() const { return host_experts_ ? host_experts_->weight_bytes() : 0; }
  int64_t workspace_bytes() const;

 private:
  struct Attention {
    DeviceMatrices q_a, q, kv_a, k_up_t, v_up, out;  // q_a: where there is a q_lora_rank
    DeviceBuffer q_a_norm, kv_a_norm;                // f32
  };
  struct FeedForward {
    DeviceMatrices gate_up, down;
  };
  struct Experts {
    DeviceMatrices router, gate_up, down;
    DeviceBuffer bias;   // f32, or none
    FeedForward shared;  // or none
    int32_t host_index = -1;  // >= 0: gate_up and down are there, not here
  };
  struct Layer {
    DeviceBuffer input_norm, ffn_norm;  // f32
    Attention attention;
    FeedForward dense;  // or
    Experts moe;
    bool is_moe = false;
  };

  GpuModel(const ModelConfig& config, Device& device, WeightFormat weights, const StepLimits& limits);
  Status allocate();
  Status keep_with_host(const GpuModelOptions& options, OpContext& context);
  void load_weights(DeviceLoader& loader, WeightLoader* host_loader);
  Attention load_attention(int32_t layer, DeviceLoader& loader) const;
  static FeedForward load_feed_forward(const std::string& prefix, int64_t hidden, int64_t width, DeviceLoader& loader);
  Experts load_experts(int32_t layer, DeviceLoader& loader, WeightLoader* host_loader);

  // normed = norm of x, to which *delta is added before if there is one.
  void norm(const DeviceBuffer& weight, int32_t rows, bool add_delta);
  void project(const Attention& attention, const GpuStep& step);
  void attend(const Attention& attention, const GpuStep& step, int32_t layer, std::byte* pages);
  void run_feed_forward(const FeedForward& block, int32_t rows, cuda::bf16* y);
  Status run_experts(const Experts& experts, int32_t moe_index, int32_t rows);
  void run_device_experts(const Experts& experts, const int32_t* chosen, const float* expert_weights, int32_t rows);
  // `chosen` and `expert_weights` are there; the shared experts run beside the host.
  Status run_host_experts(const Experts& experts, const int32_t* chosen, const float* expert_weights, int32_t rows);

  const ModelConfig config_;
  Device& device_;
  const WeightFormat weights_;
  const StepLimits limits_;
  const float scale_;  // of the scores
  const RopeLayout layout_;
  const KvLayout kv_;

  DeviceBuffer embedding_;  // [vocab, hidden] bf16
  std::vector<Layer> layers_;
  DeviceBuffer final_norm_;  // [hidden] f32
  DeviceMatrices head_;      // [vocab, hidden]
  int64_t weight_bytes_ = 0;

  std::unique_ptr<HostExperts> host_experts_;  // or null
  int32_t host_layers_ = 0;
  DeviceBuffer block_;  // of the workspace
  std::optional<Workspace> work_;
  std::optional<StepStager> stager_;
  Products products_;
};

}  // namespace sluice
