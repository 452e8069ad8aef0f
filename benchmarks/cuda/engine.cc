// Decode steps of a model with random weights: the whole engine, as serving would run it, with graphs and without.
#include <array>
#include <chrono>

#include "benchmarks/cuda/cells.h"
#include "gpu/executor.h"

namespace sluice {

namespace {

constexpr int32_t kSteps = 64, kMaxBatch = 32;

// Seconds of a step of `batch` sequences, each in pages of its own.
double time_decode(GpuExecutor& executor, int32_t batch) {
  std::vector<std::vector<TokenId>> tokens(static_cast<size_t>(batch));
  std::vector<std::array<PageId, 2>> pages(static_cast<size_t>(batch));
  for (int32_t i = 0; i < batch; ++i) {
    tokens[static_cast<size_t>(i)] = {i + 1};
    pages[static_cast<size_t>(i)] = {PageId{2 * i}, PageId{2 * i + 1}};
  }
  const SamplingParams greedy{.temperature = 0};
  std::chrono::steady_clock::time_point begin;
  constexpr int32_t kWarm = 8;
  for (int32_t step = 0; step < kSteps + kWarm; ++step) {
    if (step == kWarm) begin = std::chrono::steady_clock::now();
    StepPlan plan;
    for (size_t i = 0; i < tokens.size(); ++i)
      plan.work.push_back({.begin = step, .end = step + 1, .role = TokenRole::kGenerated, .all_tokens = tokens[i],
                           .num_prompt_tokens = 1, .pages = pages[i], .samples = true, .cached_hidden = {},
                           .sampling = &greedy, .stop_ids = {}});
    const StepResult result = executor.run(plan);
    require(result.status);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i].push_back(*result.results[i].token);
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / kSteps;
}

}  // namespace

void bench_engine(CudaBench& bench, const std::string& config_directory) {
  const ModelConfig config = ModelConfig::load(config_directory).value();
  const Checkpoint checkpoint = Checkpoint::random(1, config);
  ThreadTeam team(ThreadTeam::available_cpus());
  Scratch scratch;
  OpContext context{team, scratch};
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kInt4G128}) {
    const auto model = GpuModel::load(config, checkpoint, bench.device(), context,
                                      {.weights = format, .max_batch_tokens = kMaxBatch, .progress = {}});
    require(model.status());
    for (const bool graphs : {true, false}) {
      const auto executor =
          GpuExecutor::create(**model, bench.device(), {.num_pages = 2 * kMaxBatch, .graphs = graphs});
      require(executor.status());
      for (const int32_t batch : {1, 8, 32})
        bench.report({graphs ? "engine_decode_graph" : "engine_decode", fmt::format("mini batch {}", batch),
                      name(format), 0, 0, time_decode(**executor, batch)});
    }
  }
}

}  // namespace sluice
