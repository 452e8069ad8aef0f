// A model on a device (<test_device.h>: the emulated one, or a GPU's), run without a scheduler: one sequence, pages in
// falling order, as tests/support/model_runner.h does on the CPU. Owns the device and everything on it.
#pragma once

#include <test_device.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/batch_builder.h"
#include "gpu/model.h"
#include "kernels/registry.h"
#include "tests/model/temp_directory.h"
#include "tests/support/source_file.h"

namespace sluice {

const std::string kDemo = source_file("configs/demo-moe");

// The demo model's first layers, as a directory of its own: the emulated grid is slow.
inline std::unique_ptr<TempDirectory> demo_of_layers(int32_t layers) {
  auto directory = std::make_unique<TempDirectory>();
  std::ifstream file(kDemo + "/config.json");
  nlohmann::json config = nlohmann::json::parse(file);
  config["num_hidden_layers"] = layers;
  directory->write("config.json", config.dump());
  std::filesystem::create_symlink(kDemo + "/model.safetensors", directory->file("model.safetensors"));
  return directory;
}

// What loading the demo's first layers takes, besides a device.
struct DemoInputs {
  explicit DemoInputs(int32_t layers)
      : directory(demo_of_layers(layers)),
        config(ModelConfig::load(directory->path()).value()),
        checkpoint(Checkpoint::open(directory->path(), config).value()) {}

  std::unique_ptr<TempDirectory> directory;
  ModelConfig config;
  Checkpoint checkpoint;
  ThreadTeam team{2};
  Scratch scratch;
  OpContext context{team, scratch};
};

class GpuRunner {
 public:
  struct Options {
    WeightFormat weights = WeightFormat::kAuto;
    int32_t max_batch_tokens = 32;
    int32_t context_length = 256;
    int32_t num_pages = 8;
    uint64_t seed = 1;
    int32_t multiprocessors = 2;  // of the emulated device
    int32_t host_layers = 0;      // layers of experts that the host keeps, for the fastest backend of this machine
  };

  GpuRunner(const std::string& directory, const Options& options)
      : device_(make_test_device(options.seed, options.multiprocessors)), team_(2), context_{team_, scratch_} {
    config_ = ModelConfig::load(directory).value();
    const Checkpoint checkpoint = Checkpoint::open(directory, config_).value();
    Result<std::unique_ptr<GpuModel>> model =
        GpuModel::load(config_, checkpoint, *device_, context_,
                       {.weights = options.weights,
                        .max_batch_tokens = options.max_batch_tokens,
                        .context_length = options.context_length,
                        .progress = {},
                        .host_layers = options.host_layers,
                        .host_backend = find_backend("cpu").value()});
    SLUICE_CHECK(model.ok(), "{}", model.status().to_string());
    model_ = std::move(*model);
    num_pages_ = options.num_pages;
    cache_ = DeviceBuffer::allocate(*device_, model_->kv_layout().bytes_per_page() * num_pages_).value();
    for (int32_t page = num_pages_ - 1; page >= 0; --page) pages_.push_back(PageId{page});
  }

  // Computes tokens[begin, end) and returns the logits of all of these positions: [end - begin, vocab].
  std::vector<float> compute(const std::vector<TokenId>& tokens, int32_t begin, int32_t end, TokenRole role) {
    StepPlan plan;
    plan.work.push_back({.begin = begin, .end = end, .role = role, .all_tokens = tokens, .num_prompt_tokens = end,
                         .pages = pages_, .cached_hidden = {}, .stop_ids = {}, .num_prompt_logprobs = 0});
    const StepBatch batch = builder_.build(plan, {}, nullptr);
    const GpuStep step = model_->stage(batch, 0).value();
    const Status forwarded = model_->forward(step, cache_.data());
    SLUICE_CHECK(forwarded.ok(), "{}", forwarded.to_string());
    const size_t vocab = static_cast<size_t>(config_.vocab_size), rows = static_cast<size_t>(end - begin);
    std::vector<float> logits(rows * vocab);
    model_->compute_logits(model_->hidden(), end - begin);
    const int64_t routed = int64_t{moe_layers(config_)} * step.rows * config_.num_experts_per_tok;
    experts_.resize(static_cast<size_t>(routed));
    const auto bytes = [](const auto* pointer) { return reinterpret_cast<const std::byte*>(pointer); };
    SLUICE_CHECK(device_->copy_out(reinterpret_cast<std::byte*>(logits.data()), bytes(model_->logits()),
                                  static_cast<int64_t>(logits.size()) * 4).ok(), "copy");
    SLUICE_CHECK(device_->copy_out(reinterpret_cast<std::byte*>(experts_.data()), bytes(model_->routed_experts()),
                                  routed * 4).ok(), "copy");
    SLUICE_CHECK(device_->wait().ok(), "wait");
    return logits;
  }
  // Of the last compute(): [moe layers, rows, top_k].
  const std::vector<int32_t>& experts() const { return experts_; }

  GpuModel& model() { return *model_; }
  Device& device() { return *device_; }
  const ModelConfig& config() const { return config_; }

 private:
  std::unique_ptr<Device> device_;
  ThreadTeam team_;
  Scratch scratch_;
  OpContext context_;
  ModelConfig config_;
  std::unique_ptr<GpuModel> model_;
  DeviceBuffer cache_;
  int32_t num_pages_ = 0;
  std::vector<PageId> pages_;
  BatchBuilder builder_;
  std::vector<int32_t> experts_;
};

}  // namespace sluice
