// Continuous against static batching where a step costs the same at any batch, as a GPU's nearly does: time is the
// number of steps. The workload of `bench batching`: batch 16, lognormal lengths with median 32 in [8, 256].
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "app/bench/distribution.h"
#include "scheduler/scheduler.h"

namespace sluice {
namespace {

constexpr int kNumRequests = 512;
constexpr int32_t kBatch = 16;

class Counter final : public TokenSink {
 public:
  void emit(TokenEvent event) override { num_tokens += event.token.has_value(); }
  int64_t num_tokens = 0;
};

struct Outcome {
  int64_t steps = 0;
  double occupancy = 0;  // tokens per step and place in the batch
};

Outcome serve(bool is_static, bool keeps_rows, uint64_t seed) {
  ActivationCache cache({.num_pages = kBatch * 8, .enabled = false});
  Counter sink;
  Scheduler scheduler({.max_batch_tokens = 1024,
                       .max_running = kBatch,
                       .context_length = 512,
                       .static_batching = is_static,
                       .keep_finished_rows = keeps_rows},
                      cache, sink);
  std::mt19937_64 random(seed);
  const LengthDistribution lengths = LengthDistribution::parse("lognormal:32:1:8:256").value();
  for (uint64_t i = 0; i < kNumRequests; ++i) {
    Request request;
    request.id = RequestId{i};
    request.prompt.assign(32, static_cast<TokenId>(i));
    request.stop.max_tokens = lengths.draw(random);
    scheduler.submit(std::move(request), TimePoint{});
  }
  Outcome outcome;
  while (!scheduler.idle()) {
    const StepPlan& plan = scheduler.plan(TimePoint{});
    StepResult result;
    result.results.resize(plan.work.size());
    for (size_t i = 0; i < plan.work.size(); ++i)
      if (plan.work[i].samples) result.results[i].token = 1;
    scheduler.commit(std::move(result), TimePoint{});
    ++outcome.steps;
  }
  outcome.occupancy = static_cast<double>(sink.num_tokens) / static_cast<double>(outcome.steps * kBatch);
  return outcome;
}

TEST(BatchingGain, ContinuousIsThreeTimesAsFastWhereAStepCostsTheSame) {
  for (const uint64_t seed : {1, 2, 3}) {
    const Outcome continuous = serve(false, false, seed);
    for (const bool keeps_rows : {false, true}) {
      const Outcome fixed = serve(true, keeps_rows, seed);
      const double gain = static_cast<double>(fixed.steps) / static_cast<double>(continuous.steps);
      fmt::print("seed {}: {} steps (occupancy {:.0f} %), static {} {} steps ({:.0f} %): {:.2f} times\n", seed,
                 continuous.steps, 100 * continuous.occupancy, keeps_rows ? "with kept rows" : "with dropped rows",
                 fixed.steps, 100 * fixed.occupancy, gain);
      EXPECT_GE(gain, 3);
      EXPECT_GE(continuous.occupancy, 0.85);
    }
  }
}

}  // namespace
}  // namespace sluice
