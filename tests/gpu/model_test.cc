// What a model takes of a device, which models and devices are refused, and failures while loading.
#include "gpu/model.h"

#include <gmock/gmock.h>

#include "model/quantize_checkpoint.h"
#include "tests/gpu/gpu_runner.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

TEST(GpuModel, MemoryIsWhatWasPlanned) {
  const auto directory = demo_of_layers(2);
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kInt4G128}) {
    GpuRunner gpu(directory->path(), {.weights = format, .num_pages = 3});
    const GpuModel& model = gpu.model();
    const Checkpoint checkpoint = Checkpoint::open(directory->path(), model.config()).value();
    EXPECT_EQ(GpuModel::planned_weight_bytes(model.config(), checkpoint, format), model.weight_bytes());
    EXPECT_EQ(static_cast<EmulatedDevice&>(gpu.device()).allocated_bytes(),
              model.weight_bytes() + model.workspace_bytes() + 3 * model.kv_layout().bytes_per_page());
    const StepLimits limits{.max_rows = 32, .context_length = 256, .multiprocessors = 2,
                            .shared_bytes_of_block = gpu.device().properties().shared_bytes_of_block};
    EXPECT_EQ(GpuModel::planned_workspace_bytes(model.config(), format, limits), model.workspace_bytes());
  }
}

TEST(GpuModel, WhatTheHostKeepsTakesNoDeviceMemory) {
  DemoInputs in(3);  // experts in layers 1 and 2
  const ModelConfig& config = in.config;
  EXPECT_FALSE(GpuModel::is_hosted(config, 1, 1));
  EXPECT_TRUE(GpuModel::is_hosted(config, 2, 1));
  EXPECT_FALSE(GpuModel::is_hosted(config, 0, 2));
  const Backend& backend = *find_backend("cpu").value();
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kInt4G32}) {
    GpuRunner gpu(in.directory->path(), {.weights = format, .num_pages = 3, .host_layers = 1});
    const GpuModel& model = gpu.model();
    EXPECT_EQ(GpuModel::planned_weight_bytes(config, in.checkpoint, format, 1), model.weight_bytes());
    EXPECT_LT(model.weight_bytes(), GpuModel::planned_weight_bytes(config, in.checkpoint, format));
    EXPECT_EQ(static_cast<EmulatedDevice&>(gpu.device()).allocated_bytes(),
              model.weight_bytes() + model.workspace_bytes() + 3 * model.kv_layout().bytes_per_page());
    EXPECT_EQ(model.host_weight_bytes(),
              HostExperts::planned_bytes(config, 2, in.checkpoint, format, backend, in.context));
  }
  EmulatedDevice device({});
  const int64_t before = activation_bytes();
  const auto host = HostExperts::create(device, config, backend, in.context, 32).value();
  EXPECT_EQ(device.allocated_bytes(), HostExperts::device_bytes(32));
  EXPECT_EQ(activation_bytes() - before + device.pinned_bytes(), HostExperts::planned_activation_bytes(config, 32));
}

TEST(GpuModel, WhatACheckpointKeepsWideIsPlannedWide) {
  const auto directory = demo_of_layers(2);
  const ModelConfig config = ModelConfig::load(directory->path()).value();
  const TempDirectory quantized;
  {
    const Checkpoint source = Checkpoint::open(directory->path(), config).value();
    std::ifstream file(directory->file("config.json"));
    const std::string json((std::istreambuf_iterator<char>(file)), {});
    ThreadTeam team(2);
    const auto report = quantize_checkpoint(source, config, json, quantized.path(), team, {.keep_head = true});
    ASSERT_TRUE(report.ok()) << report.status().to_string();
  }
  const ModelConfig config_of_files = ModelConfig::load(quantized.path()).value();
  const Checkpoint checkpoint = Checkpoint::open(quantized.path(), config_of_files).value();
  const auto planned = [&](WeightFormat wanted) {
    return GpuModel::planned_weight_bytes(config_of_files, checkpoint, wanted);
  };
  for (const WeightFormat wanted : {WeightFormat::kAuto, WeightFormat::kInt4G32}) {
    GpuRunner gpu(quantized.path(), {.weights = wanted, .num_pages = 1});
    EXPECT_EQ(gpu.model().weights(), WeightFormat::kInt4G32);
    EXPECT_EQ(planned(wanted), gpu.model().weight_bytes()) << name(wanted);
  }
  // The head in bf16, where int4-g32 would take 4 bits and a scale of 16 for each 32.
  const int64_t values = int64_t{config.vocab_size} * config.hidden_size;
  EXPECT_EQ(planned(WeightFormat::kAuto) - planned(WeightFormat::kInt4G32), values * 2 - (values / 2 + values / 16));
}

TEST(GpuModel, AFailingDeviceIsAStatus) {
  DemoInputs in(2);
  for (const int64_t call : {1, 2, 5, 20, 60}) {
    EmulatedDevice device({});
    device.fail_call(call);
    EXPECT_EQ(GpuModel::load(in.config, in.checkpoint, device, in.context, {.progress = {}}).status().code(),
              StatusCode::kInternal)
        << call;
  }
  EmulatedDevice small({.memory_bytes = 1 << 20});
  EXPECT_EQ(GpuModel::load(in.config, in.checkpoint, small, in.context, {.progress = {}}).status().code(),
            StatusCode::kResourceExhausted);
}

TEST(GpuModel, WhatNoKernelServesIsNamed) {
  const ModelConfig demo = ModelConfig::load(kDemo).value();
  EXPECT_TRUE(GpuModel::check_supported(demo).ok());
  const auto message = [&](auto change) {
    ModelConfig config = demo;
    change(config);
    const Status status = GpuModel::check_supported(config);
    EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
    return status.message();
  };
  EXPECT_THAT(message([](ModelConfig& c) { c.kv_lora_rank = 128; }), HasSubstr("found (128, 16)"));
  EXPECT_THAT(message([](ModelConfig& c) { c.index_topk = 2048; }), HasSubstr("model_type"));
  EXPECT_THAT(message([](ModelConfig& c) { c.v_head_dim = 40; }), HasSubstr("v_head_dim: device cuda expects a multiple of 16, found 40"));
  EXPECT_THAT(message([](ModelConfig& c) { c.hidden_size = 16400; }),
              HasSubstr("hidden_size: device cuda expects at most 16384, found 16400"));
  EXPECT_THAT(message([](ModelConfig& c) { c.q_lora_rank = 32768; }),
              HasSubstr("q_lora_rank: device cuda expects at most 16384"));
  EXPECT_THAT(message([](ModelConfig& c) { c.n_routed_experts = 1024; }), HasSubstr("found 1024"));
  ThreadTeam team(1);
  Scratch scratch;
  OpContext context{team, scratch};
  EmulatedDevice device({});
  const Checkpoint checkpoint = Checkpoint::open(kDemo, demo).value();
  EXPECT_THAT(GpuModel::load(demo, checkpoint, device, context, {.weights = WeightFormat::kInt8, .progress = {}})
                  .status()
                  .message(),
              HasSubstr("int8 is not supported on device cuda"));
}

}  // namespace
}  // namespace sluice
