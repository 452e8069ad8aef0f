// Routed experts that stay in the host's memory and are computed there, by the kernels of a CPU backend: what a device
// of 24 GB needs to run a model of 600 GB, whose experts are nearly all of it and of which a token wakes few. A layer's
// way:
//
//   device  norm, route --+-- shared experts ---------------------------+-- sum -- next layer
//                         | normed, experts, weights (pinned)           | y (pinned)
//   host                  +--------- routed experts, all threads -------+
//
// The call is part of the queue (Device::fork_call), so a decode step stays one graph. Owns the weights, the pinned
// buffers and the activations; the CUDA runtime's thread computes while the loop thread waits for the step's end.
// (The division of work is that of KTransformers, github.com/kvcache-ai/ktransformers.)
#pragma once

#include <memory>
#include <vector>

#include "gpu/device_memory.h"
#include "kernels/cuda/types.h"
#include "model/feed_forward.h"

namespace sluice {

class HostExperts {
 public:
  // For `max_rows` rows of a step. `config` outlives this; `backend` and `context` lend kernels, threads and scratch.
  static Result<std::unique_ptr<HostExperts>> create(Device& device, const ModelConfig& config, const Backend& backend,
                                                     OpContext context, int32_t max_rows);
  // On the device, besides what the workspace has.
  static int64_t device_bytes(int32_t max_rows) { return 2 * aligned_bytes(int64_t{max_rows} * 4); }
  // What `layer` takes of the host's memory; reads nothing.
  static int64_t planned_bytes(const ModelConfig& config, int32_t layer, const Checkpoint& checkpoint,
                               WeightFormat weights, const Backend& backend, OpContext& context);

  // What all layers share there: activations and pinned buffers.
  static int64_t planned_activation_bytes(const ModelConfig& config, int32_t max_rows);

  // The next layer's, by a loader for the backend's packing; its index is what fork() takes.
  int32_t load(int32_t layer, WeightLoader& loader);

  // Of the next step, before it is enqueued: rows that are somebody's, and with those that pad it, for which row 0's
  // result comes back.
  void set_rows(int32_t rows, int32_t padded_rows) {
    rows_ = rows;
    padded_rows_ = padded_rows;
  }

  // On the device, of `rows` rows, padding included.
  struct Input {
    const cuda::bf16* normed = nullptr;  // [rows, hidden]
    const int32_t* experts = nullptr;    // [rows, top_k]
    const float* weights = nullptr;      // [rows, top_k]
    int32_t rows = 0;
  };
  // Into the queue: the layer's experts over `input`, and the result [rows, hidden] into `out` on the device. Between
  // the two the device may work on what needs neither.
  Status fork(int32_t index, const Input& input);
  Status join(cuda::bf16* out, int32_t rows);

  // What combine() takes for a sum of one part a row: places 0, 1, 2, ... and weights of 1, on the device.
  const int32_t* places() const { return constants_.as<int32_t>(); }
  const float* ones() const { return reinterpret_cast<const float*>(constants_.data() + constants_.bytes() / 2); }

  int64_t weight_bytes() const;

 private:
  struct Layer {
    HostExperts& host;
    RoutedExperts experts;
  };

  HostExperts(Device& device, const ModelConfig& config, const Backend& backend, OpContext context, int32_t max_rows);
  Status allocate(int32_t max_rows);
  void compute(const RoutedExperts& experts);

  Device& device_;
  const ModelConfig& config_;
  const Backend& backend_;
  OpContext context_;
  const Partition whole_;
  FeedForwardWorkspace work_;
  Activations<float> normed_, sum_;             // [max rows, hidden]
  std::vector<std::unique_ptr<Layer>> layers_;  // where calls of the queue find them
  PinnedBuffer normed_in_, experts_in_, weights_in_, out_;
  DeviceBuffer constants_;
  int32_t rows_ = 0, padded_rows_ = 0;
};

}  // namespace sluice
