// Whole steps on the emulated device beside the CPU's executor: batches, graphs, page traffic, what a result carries.
#include "gpu/executor.h"

#include <gmock/gmock.h>

#include <cmath>
#include <thread>

#include "engine/executor.h"
#include "gpu/engine.h"
#include "kernels/registry.h"
#include "tests/gpu/gpu_runner.h"

namespace sluice {
namespace {

constexpr int32_t kNumPages = 8;

// The first two layers of the demo behind both executors.
class GpuExecutorTest : public ::testing::Test {
 protected:
  // `host_layers`: layers of experts that the device leaves to the host.
  explicit GpuExecutorTest(int32_t host_layers = 0)
      : directory_(demo_of_layers(2)),
        gpu_(directory_->path(), {.num_pages = 1, .host_layers = host_layers}),
        team_(2),
        context_{team_, scratch_} {
    const Checkpoint checkpoint = Checkpoint::open(directory_->path(), gpu_.config()).value();
    cpu_ = std::move(DeepSeekModel::load(gpu_.config(), checkpoint, *find_backend("auto").value(), context_,
                                         {.weights = WeightFormat::kF32, .cache_dtype = DType::kBF16, .progress = {}}))
               .value();
    device_executor_ = make(true);
    cpu_executor_ = std::make_unique<Executor>(*cpu_, context_, kNumPages);
  }

  EmulatedDevice& device() { return static_cast<EmulatedDevice&>(gpu_.device()); }
  std::unique_ptr<GpuExecutor> make(bool graphs) {
    return std::move(GpuExecutor::create(gpu_.model(), gpu_.device(), {.num_pages = kNumPages, .graphs = graphs}))
        .value();
  }

  // One token, or a prompt, of a sequence that lies in one page.
  SequenceWork work(const std::vector<TokenId>& tokens, int32_t begin, const PageId& page) const {
    return {.begin = begin,
            .end = static_cast<int32_t>(tokens.size()),
            .role = begin == 0 ? TokenRole::kPrompt : TokenRole::kGenerated,
            .all_tokens = tokens,
            .num_prompt_tokens = static_cast<int32_t>(tokens.size()),
            .pages = {&page, 1},
            .samples = true,
            .cached_hidden = {},
            .sampling = &greedy_,
            .stop_ids = {},
            .num_logprobs = 3};
  }

  // Both run the plan; the answers' tokens and log-probabilities agree as far as bf16 rows allow. Returns the device's.
  StepResult run_both(const StepPlan& plan) {
    StepResult got = device_executor_->run(plan), want = cpu_executor_->run(plan);
    EXPECT_TRUE(got.status.ok()) << got.status.to_string();
    for (size_t i = 0; i < plan.work.size(); ++i) {
      // 0.0016 sqrt(13 * 2 + 1) of logits with a deviation of about 3, four times its mean square: see model_test.cc.
      constexpr double kAllowed = 4 * 2 * 0.0016 * 5.2 * 3;
      EXPECT_EQ(got.results[i].token.has_value(), want.results[i].token.has_value());
      if (!want.results[i].token) continue;
      const std::vector<TokenLogprob>& top = want.results[i].top_logprobs;
      if (top[0].logprob - top[1].logprob > 2 * kAllowed) {
        EXPECT_EQ(got.results[i].token, want.results[i].token) << "work " << i;
        EXPECT_NEAR(*got.results[i].logprob, *want.results[i].logprob, kAllowed) << "work " << i;
      }
    }
    return got;
  }

  // Three rows, padded to four, for four steps. `look(step, before, after)` sees the device's counts around each.
  template <typename Look>
  void decode_as_a_graph(Look&& look) {
    std::vector<std::vector<TokenId>> sequences{{0, 17, 900, 31}, {0, 5}, {0, 2000, 1, 44, 3, 99, 1234}};
    const auto plain = make(false);
    plain->set_hashing(true);
    device_executor_->set_hashing(true);
    for (int32_t step = 0; step < 4; ++step) {
      StepPlan plan;
      for (size_t i = 0; i < sequences.size(); ++i)
        plan.work.push_back(
            work(sequences[i], step == 0 ? 0 : static_cast<int32_t>(sequences[i].size()) - 1, pages_[i]));
      const EmulatedDevice::Stats before = device().stats();
      const StepResult result = run_both(plan);
      const EmulatedDevice::Stats& after = device().stats();
      EXPECT_EQ(after.waits - before.waits, 1);
      EXPECT_EQ(after.replays - before.replays, step >= 2 ? 1 : 0);
      look(step, before, after);
      (void)plain->run(plan);
      EXPECT_EQ(plain->logits_hash(), device_executor_->logits_hash()) << "step " << step;
      for (size_t i = 0; i < sequences.size(); ++i) sequences[i].push_back(*result.results[i].token);
    }
    EXPECT_EQ(device_executor_->graphs_captured(), 1);
    EXPECT_EQ(plain->graphs_captured(), 0);
  }

  std::unique_ptr<TempDirectory> directory_;
  GpuRunner gpu_;
  ThreadTeam team_;
  Scratch scratch_;
  OpContext context_;
  std::unique_ptr<DeepSeekModel> cpu_;
  std::unique_ptr<GpuExecutor> device_executor_;
  std::unique_ptr<Executor> cpu_executor_;
  const SamplingParams greedy_{.temperature = 0};
  const PageId pages_[kNumPages] = {PageId{5}, PageId{2}, PageId{7}, PageId{0},
                                    PageId{1}, PageId{3}, PageId{4}, PageId{6}};
};

// Three sequences start, then go on together: from the second step of a shape on as a graph, with one copy in and one of
// logits out, and without a graph the same bits.
TEST_F(GpuExecutorTest, DecodesABatchAsAGraph) {
  decode_as_a_graph([](int32_t, const EmulatedDevice::Stats& before, const EmulatedDevice::Stats& after) {
    EXPECT_EQ(after.copies_in - before.copies_in, 1);
    EXPECT_EQ(after.copies_out - before.copies_out, 1);
  });
}

class GpuHostExpertsTest : public GpuExecutorTest {
 protected:
  GpuHostExpertsTest() : GpuExecutorTest(1) {}
};

// The host computes the rows that are somebody's, in a graph as outside of it: a step's own copies, and those of a layer.
TEST_F(GpuHostExpertsTest, ADecodeStepIsStillAGraph) {
  decode_as_a_graph([](int32_t step, const EmulatedDevice::Stats& before, const EmulatedDevice::Stats& after) {
    const int of_layer = step == 3 ? 0 : 1;  // the graph has them
    EXPECT_EQ(after.copies_in - before.copies_in, 1 + of_layer);
    EXPECT_EQ(after.copies_out - before.copies_out, 1 + 3 * of_layer);
  });
}

// A row's bits do not depend on the rows that the host computes beside it, nor on a step before it.
TEST_F(GpuHostExpertsTest, ARowsBitsDependOnItsSequenceAlone) {
  const std::vector<TokenId> tokens{0, 17, 900, 31}, others{0, 5, 6};
  StepPlan alone, beside;
  alone.work.push_back(work(tokens, 0, pages_[0]));
  beside.work.push_back(work(others, 0, pages_[1]));
  beside.work.push_back(work(tokens, 0, pages_[2]));
  const StepResult first = device_executor_->run(beside), second = device_executor_->run(alone);
  ASSERT_TRUE(first.status.ok() && second.status.ok());
  EXPECT_EQ(first.results[1].logprob, second.results[0].logprob);
  EXPECT_EQ(first.results[1].token, second.results[0].token);
}

TEST_F(GpuHostExpertsTest, AFailureOnTheWayToTheHostFailsTheStep) {
  const std::vector<TokenId> tokens{0, 17};
  StepPlan plan;
  plan.work.push_back(work(tokens, 0, pages_[0]));
  for (int64_t call = 2; call <= 7; ++call) {  // three copies out, fork, join, copy in
    const auto executor = make(true);
    device().fail_call(call);
    EXPECT_EQ(executor->run(plan).status.code(), StatusCode::kInternal) << call;
  }
  EXPECT_TRUE(device_executor_->run(plan).status.ok());
}

// Of three shapes with room for two graphs: the first step of a shape runs as it is, the second is captured.
TEST_F(GpuExecutorTest, TheGraphUnusedForLongestGoes) {
  const std::vector<TokenId> first{0}, second{0, 17};
  const auto executor =
      std::move(GpuExecutor::create(gpu_.model(), gpu_.device(), {.num_pages = kNumPages, .max_graphs = 2})).value();
  StepPlan prompt;
  prompt.work.push_back(work(first, 0, pages_[0]));
  ASSERT_TRUE(executor->run(prompt).status.ok());
  std::optional<float> logprob;
  const auto step = [&](int rows) {  // whether it was replayed
    StepPlan plan;
    for (int i = 0; i < rows; ++i) plan.work.push_back(work(second, 1, pages_[0]));
    const int64_t before = device().stats().replays;
    const StepResult result = executor->run(plan);
    EXPECT_TRUE(result.status.ok());
    if (!logprob) logprob = result.results[0].logprob;
    EXPECT_EQ(result.results[0].logprob, logprob);
    return device().stats().replays > before;
  };
  EXPECT_FALSE(step(1));
  EXPECT_TRUE(step(1));
  EXPECT_FALSE(step(2));
  EXPECT_TRUE(step(1));   // used behind that of two rows,
  EXPECT_FALSE(step(4));  // which therefore goes
  EXPECT_TRUE(step(1));
  EXPECT_FALSE(step(2));
  EXPECT_EQ(executor->graphs_captured(), 1);
}

TEST_F(GpuExecutorTest, PagesAreCopiedAndMoved) {
  const std::vector<TokenId> tokens{0, 17, 900, 31, 8};
  StepPlan first;
  first.work.push_back(work(tokens, 0, pages_[0]));
  first.work[0].wants_hidden = true;
  const StepResult prompt = run_both(first);
  ASSERT_EQ(prompt.results[0].hidden.size(), 256u);
  std::vector<TokenId> longer = tokens;
  longer.push_back(77);

  // The next token computed in the page itself, in its copy, and in one that went to the host and came back.
  std::vector<std::byte> host(static_cast<size_t>(gpu_.model().kv_layout().bytes_per_page()));
  StepPlan out;
  out.moves.push_back({.page = pages_[0], .host = host.data(), .to_host = true});
  out.copies.push_back({.from = pages_[0], .to = pages_[1], .num_positions = 5});
  EXPECT_TRUE(device_executor_->run(out).status.ok());
  StepPlan in;
  in.moves.push_back({.page = pages_[2], .host = host.data(), .to_host = false});
  for (int32_t i = 0; i < 3; ++i) in.work.push_back(work(longer, 5, pages_[i]));
  const StepResult result = device_executor_->run(in);
  ASSERT_TRUE(result.status.ok());
  for (size_t i = 1; i < 3; ++i) EXPECT_EQ(result.results[i].logprob, result.results[0].logprob);

  // A hidden state that went to the host draws the same token again, without being computed.
  StepPlan cached;
  cached.work.push_back(work(tokens, 0, pages_[0]));
  cached.work[0].begin = cached.work[0].end;
  cached.work[0].cached_hidden = prompt.results[0].hidden;
  const StepResult again = device_executor_->run(cached);
  ASSERT_TRUE(again.status.ok());
  EXPECT_EQ(again.results[0].token, prompt.results[0].token);
  EXPECT_EQ(again.results[0].logprob, prompt.results[0].logprob);
}

TEST_F(GpuExecutorTest, TheObserverSeesTheRows) {
  const std::vector<TokenId> a{0, 17, 900}, b{0, 5};
  StepPlan plan;
  plan.work.push_back(work(a, 2, pages_[0]));
  plan.work.push_back(work(b, 0, pages_[1]));
  plan.work[0].begin = 0;
  plan.work[0].role = TokenRole::kPrompt;
  std::vector<int32_t> got, want;
  const auto into = [](std::vector<int32_t>& target) {
    return ForwardObserver{[&](int32_t layer, int64_t rows, int32_t top_k, const int32_t* experts, const float* weights) {
                             EXPECT_EQ(layer, 1);
                             EXPECT_EQ(rows, 5);
                             EXPECT_GT(weights[0], 0);
                             target.assign(experts, experts + rows * top_k);
                           },
                           {}};
  };
  const ForwardObserver of_device = into(got), of_cpu = into(want);
  device_executor_->set_observer(&of_device);
  cpu_executor_->set_observer(&of_cpu);
  run_both(plan);
  ASSERT_EQ(got.size(), 20u);
  EXPECT_EQ(got, want);
}

TEST_F(GpuExecutorTest, PromptLogprobsOfAllPositions) {
  const std::vector<TokenId> tokens{0, 17, 900, 31, 8};
  StepPlan plan;
  plan.work.push_back(work(tokens, 0, pages_[0]));
  plan.work[0].num_prompt_logprobs = 2;
  const StepResult result = run_both(plan);
  const StepResult want = cpu_executor_->run(plan);
  ASSERT_EQ(result.results[0].prompt_logprobs.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(result.results[0].prompt_logprobs[i][0].token, tokens[i + 1]);
    EXPECT_NEAR(result.results[0].prompt_logprobs[i][0].logprob, want.results[0].prompt_logprobs[i][0].logprob, 0.2);
  }
}

// As the server's loop thread does, on which the device was not opened.
TEST_F(GpuExecutorTest, RunsOnAnotherThreadThanItsOwner) {
  const std::vector<TokenId> tokens{0, 17};
  StepPlan plan;
  plan.work.push_back(work(tokens, 0, pages_[0]));
  StepResult result;
  std::thread([&] { result = device_executor_->run(plan); }).join();
  EXPECT_TRUE(result.status.ok() && result.results[0].token);
  EXPECT_TRUE(device().enter().ok());
}

TEST_F(GpuExecutorTest, ALostDeviceFailsTheStepAndAllAfterIt) {
  const std::vector<TokenId> tokens{0, 17};
  StepPlan plan;
  plan.work.push_back(work(tokens, 0, pages_[0]));
  for (const int64_t call : {1, 2, 3}) {  // copy in, copy out, wait
    const auto executor = make(true);
    EXPECT_TRUE(executor->group_status().ok());
    device().fail_call(call);
    const Status lost = executor->run(plan).status;
    EXPECT_EQ(lost.code(), StatusCode::kInternal) << call;
    EXPECT_EQ(executor->run(plan).status.to_string(), lost.to_string()) << call;
    EXPECT_EQ(executor->group_status().to_string(), lost.to_string()) << call;
  }
  EXPECT_TRUE(device_executor_->run(plan).status.ok());
}

TEST_F(GpuExecutorTest, WhatDoesNotFitFailsTheStepAlone) {
  const std::vector<TokenId> tokens{0, 17};
  StepPlan plan;
  plan.work.push_back(work(tokens, 0, pages_[0]));
  device().fail_call(1, StatusCode::kResourceExhausted);
  EXPECT_EQ(device_executor_->run(plan).status.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(device_executor_->group_status().ok());
  EXPECT_TRUE(device_executor_->run(plan).status.ok());
}

TEST(GpuEngine, PlansBeforeItLoads) {
  DemoInputs in(2);
  const auto load = [&](int64_t memory_bytes, WeightFormat weights) {
    return GpuEngine::load(std::make_unique<EmulatedDevice>(EmulatedDevice::Options{.memory_bytes = memory_bytes}),
                           in.config, in.checkpoint, in.context,
                           {.weights = weights, .max_batch_tokens = 16, .context_length = 128, .progress = {}});
  };
  const auto engine = load(int64_t{64} << 20, WeightFormat::kInt4G32);
  ASSERT_TRUE(engine.ok()) << engine.status().to_string();
  EXPECT_GT((*engine)->num_pages(), 100);
  EXPECT_EQ((*engine)->device_name(), "emulated grid");
  EXPECT_THAT(load(2 << 20, WeightFormat::kBF16).status().message(), ::testing::HasSubstr("device memory: weights of"));
  EXPECT_THAT(load(int64_t{64} << 20, WeightFormat::kInt8).status().message(), ::testing::HasSubstr("int8"));
}

TEST(GpuEngine, LeavesExpertsWithTheHostWhereTheDeviceHasNoRoom) {
  DemoInputs in(3);
  constexpr WeightFormat kFormat = WeightFormat::kInt4G32;
  const EmulatedDevice::Options device;
  const StepLimits limits{.max_rows = 16, .context_length = 128, .multiprocessors = device.multiprocessors,
                          .shared_bytes_of_block = device.shared_bytes_of_block};
  const auto load = [&](int64_t memory_bytes, std::optional<int32_t> host_layers) {
    return GpuEngine::load(std::make_unique<EmulatedDevice>(EmulatedDevice::Options{.memory_bytes = memory_bytes}),
                           in.config, in.checkpoint, in.context,
                           {.weights = kFormat, .max_batch_tokens = 16, .context_length = 128, .progress = {},
                            .host_layers = host_layers, .host_backend = find_backend("cpu").value()});
  };
  // Room for everything but the cache, behind a twentieth of headroom.
  const int64_t tight = (GpuModel::planned_weight_bytes(in.config, in.checkpoint, kFormat) +
                         GpuModel::planned_workspace_bytes(in.config, kFormat, limits) + GpuExecutor::planned_bytes(in.config)) *
                            20 / 19 + 20;
  EXPECT_EQ(load(tight, 0).status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(load(tight, 0).status().message(), ::testing::HasSubstr("--experts-on auto"));
  EXPECT_THAT(load(1 << 20, std::nullopt).status().message(), ::testing::Not(::testing::HasSubstr("--experts-on auto")));
  const auto engine = load(tight, std::nullopt);
  ASSERT_TRUE(engine.ok()) << engine.status().to_string();
  EXPECT_EQ((*engine)->host_layers(), 1);
  EXPECT_GE((*engine)->num_pages(), 3);
  EXPECT_EQ((*load(int64_t{64} << 20, std::nullopt))->host_layers(), 0);
  EXPECT_EQ(load(tight, 3).status().to_string(), "INVALID_ARGUMENT: experts_on: cpu:3: the model has 2 layers of experts");
}

}  // namespace
}  // namespace sluice
