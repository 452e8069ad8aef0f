// Carries out step plans on a CUDA device: page moves, one copy of the step's input in, the model, one copy of logits
// out, the draws on the host. Decode steps are replayed as graphs by padded batch size. Owns the cache's memory on the
// device and the step's pinned buffers; model and device are lent. One thread (the loop thread) calls run().
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "engine/answers.h"
#include "engine/step_executor.h"
#include "gpu/model.h"

namespace sluice {

// Graphs kept at once. 512 rows and 2,048 pages have some 300 shapes, but a server stands in few at a time: 64 are 8
// sizes of batch at 8 lengths of context. What a graph of 61 layers takes of the device has not been measured; it must
// come out of the memory plan's headroom.
constexpr int32_t kMaxGraphs = 64;

struct GpuExecutorOptions {
  int32_t num_pages = 0;
  bool graphs = true;
  int32_t max_graphs = kMaxGraphs;  // the one unused for longest goes
};

class GpuExecutor final : public StepExecutor {
 public:
  static Result<std::unique_ptr<GpuExecutor>> create(GpuModel& model, Device& device, const GpuExecutorOptions& options);
  ~GpuExecutor() override;
  // On the device, besides the cache.
  static int64_t planned_bytes(const ModelConfig& config) { return int64_t{kGpuLogitsRows} * config.hidden_size * 2; }

  // A status that is not ok says which call of the device failed; INTERNAL means that the device is lost, now and for
  // every later step.
  StepResult run(const StepPlan& plan) override;
  const Status& group_status() const override { return lost_; }
  void set_observer(const ForwardObserver* observer) override { observer_ = observer; }
  void set_hashing(bool on) override { hashing_ = on; }
  uint64_t logits_hash() const override { return logits_hash_; }
  const StepTimes& times() const override { return times_; }

  int64_t graphs_captured() const { return graphs_captured_; }

 private:
  // Steps of one shape: the first runs as it is, so that CUDA loads its kernels, the second is captured.
  struct GraphOfShape {
    std::optional<Device::Graph> graph;
    int64_t last_use = 0;  // the step's number
  };

  GpuExecutor(GpuModel& model, Device& device, const GpuExecutorOptions& options);
  Status allocate();
  Status run_plan(const StepPlan& plan, StepResult& result);
  Status move_pages(const StepPlan& plan);
  Status forward(const StepBatch& batch);
  Status replay(const GpuStep& step);
  void drop_oldest_graph();
  // Rows of hidden states of the asked-for rows, side by side on the device.
  Result<const cuda::bf16*> gather_hidden(const StepPlan& plan, std::span<const LogitsRow> rows);
  Status answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result);
  // Starts copies that are complete after the next wait: what the observer sees, hidden states that work asked for.
  Status copy_out_extras(const StepPlan& plan);
  void hand_out_extras(const StepPlan& plan, StepResult& result) const;
  std::byte* page(PageId id) const;

  GpuModel& model_;
  Device& device_;
  const GpuExecutorOptions options_;
  const int64_t page_bytes_;
  DeviceBuffer pages_;
  DeviceBuffer gathered_;         // [kGpuLogitsRows, hidden] bf16
  PinnedBuffer cached_hidden_;    // the same, on its way in
  PinnedBuffer logits_;           // [kGpuLogitsRows, vocab] f32
  PinnedBuffer hidden_;           // [max rows, hidden] bf16
  PinnedBuffer routed_;           // [moe layers, rows, top_k] experts, then as many weights
  BatchBuilder builder_;
  const ForwardObserver* observer_ = nullptr;
  bool hashing_ = false;
  uint64_t logits_hash_ = kLogitsHashSeed;
  StepTimes times_;
  std::map<std::pair<int32_t, int32_t>, GraphOfShape> graphs_;  // by (rows, max_pages)
  int64_t graphs_captured_ = 0, graph_steps_ = 0;
  Status lost_;
  int32_t step_rows_ = 0, batch_rows_ = 0;  // of the last forward: with padding, without
};

}  // namespace sluice
