// What clients see of the scheduler besides tokens: times, logprobs, errors. Who computes what when: tests/scenario.
#include "scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_engine.h"
#include "tests/support/manual_clock.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

class SchedulerTest : public ::testing::Test, public TokenSink {
 protected:
  SchedulerTest()
      : cache_({.num_pages = 16}),
        scheduler_({.max_batch_tokens = 64, .max_running = 4, .context_length = 500}, cache_, *this, hooks()),
        engine_({.num_pages = 16, .roles_matter = false}) {}

  SchedulerHooks hooks() {
    SchedulerHooks hooks;
    hooks.left_waiting = [this](int64_t num_tokens) { left_waiting_.push_back(num_tokens); };
    return hooks;
  }

  void emit(TokenEvent event) override { events_.push_back(std::move(event)); }

  Request request(uint64_t id, size_t num_prompt, int32_t num_new) const {
    Request request;
    request.id = RequestId{id};
    for (size_t i = 0; i < num_prompt; ++i) request.prompt.push_back(static_cast<TokenId>(1 + i));
    request.stop.max_tokens = num_new;
    request.arrival = clock_.now();
    return request;
  }

  void step(Status status = {}) {
    const StepPlan& plan = scheduler_.plan(clock_.now());
    ASSERT_FALSE(plan.empty());
    StepResult result;
    if (status.ok()) result = engine_.run(plan);
    result.status = status;
    clock_.advance(milliseconds(10));
    scheduler_.commit(std::move(result), clock_.now());
    scheduler_.check_invariants();
    ASSERT_THAT(engine_.problems(), ElementsAre());
  }

  ManualClock clock_;
  ActivationCache cache_;
  Scheduler scheduler_;
  FakeEngine engine_;
  std::vector<TokenEvent> events_;
  std::vector<int64_t> left_waiting_;
};

TEST_F(SchedulerTest, TimesAddUp) {
  scheduler_.submit(request(1, 100, 3), clock_.now());
  clock_.advance(milliseconds(5));
  for (int i = 0; i < 4; ++i) step();  // two chunks of the prompt, two decodes
  ASSERT_EQ(events_.size(), 3u);
  EXPECT_EQ(events_[0].finish, FinishReason::kNone);
  const Usage& usage = events_[2].usage;
  EXPECT_EQ(usage.prompt_tokens, 100);
  EXPECT_EQ(usage.completion_tokens, 3);
  EXPECT_EQ(usage.queue_time, milliseconds(5));
  EXPECT_EQ(usage.prefill_time, milliseconds(20));
  EXPECT_EQ(usage.decode_time, milliseconds(20));
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_TRUE(scheduler_.plan(clock_.now()).empty());
}

TEST_F(SchedulerTest, PromptLogprobsComeWholeWithTheFirstEvent) {
  Request wanted = request(1, 150, 2);
  wanted.num_prompt_logprobs = 0;
  scheduler_.submit(wanted, clock_.now());
  for (int i = 0; i < 4; ++i) step();
  const auto& logprobs = events_[0].prompt_logprobs;
  ASSERT_EQ(logprobs.size(), 150u);
  EXPECT_TRUE(logprobs[0].empty());
  for (size_t i = 1; i < logprobs.size(); ++i) {
    ASSERT_EQ(logprobs[i].size(), 1u) << i;
    EXPECT_EQ(logprobs[i][0].token, wanted.prompt[i]);
    EXPECT_EQ(logprobs[i][0].logprob, -static_cast<float>(i));  // made by the row before it
  }
  EXPECT_TRUE(events_[1].prompt_logprobs.empty());
}

TEST_F(SchedulerTest, AFailedStepEndsWhoRanAndTrustsNoPage) {
  scheduler_.submit(request(1, 64, 1), clock_.now());
  step();
  EXPECT_EQ(cache_.pool().num_cached(), 1);
  scheduler_.submit(request(2, 100, 5), clock_.now());
  Request later = request(3, 10, 1);
  later.num_choices = 4;
  scheduler_.submit(later, clock_.now());
  step(internal_error("device lost"));
  EXPECT_EQ(events_.back().request, RequestId{2});
  EXPECT_EQ(events_.back().finish, FinishReason::kError);
  EXPECT_EQ(events_.back().error.message(), "device lost");
  EXPECT_EQ(cache_.pool().num_free(), 16);
  step();
  step();
  EXPECT_EQ(events_.back().request, RequestId{3});
  EXPECT_EQ(events_.back().finish, FinishReason::kLength);
  EXPECT_TRUE(scheduler_.idle());
}

TEST_F(SchedulerTest, EachRequestLeavesTheQueueOnce) {
  scheduler_.submit(request(1, 100, 2), clock_.now());  // admitted
  step();
  scheduler_.cancel(RequestId{1});
  scheduler_.submit(request(2, 20, 2), clock_.now());  // cancelled while it waits
  scheduler_.cancel(RequestId{2});
  scheduler_.submit(request(3, 600, 2), clock_.now());  // rejected
  EXPECT_THAT(left_waiting_, ElementsAre(100, 20, 600));
}

TEST_F(SchedulerTest, EveryChoiceHearsTheEnd) {
  Request three = request(1, 100, 5);
  three.num_choices = 3;
  scheduler_.submit(three, clock_.now());
  step();  // the prompt is half done, its choices do not exist yet
  scheduler_.submit(request(2, 10, 5), clock_.now());
  scheduler_.cancel_all(unavailable("shutting down"));
  ASSERT_EQ(events_.size(), 4u);
  for (const TokenEvent& event : events_) {
    EXPECT_EQ(event.finish, FinishReason::kError);
    EXPECT_EQ(event.error.code(), StatusCode::kUnavailable);
  }
  EXPECT_EQ(events_[2].choice, 2);
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(cache_.pool().num_used(), 0);
}

TEST_F(SchedulerTest, CommandsForUnknownRequestsAreIgnored) {
  scheduler_.cancel(RequestId{9});
  scheduler_.finish(RequestId{9}, 0, 1);
  scheduler_.submit(request(1, 10, 3), clock_.now());
  scheduler_.finish(RequestId{1}, 7, 1);
  EXPECT_TRUE(events_.empty());
  EXPECT_FALSE(scheduler_.idle());
}

TEST_F(SchedulerTest, ADecodeBatchLargerThanTheBudgetDoesNotStarvePrompts) {
  Scheduler scheduler({.max_batch_tokens = 2, .max_running = 8, .context_length = 500}, cache_, *this);
  for (uint64_t id = 1; id <= 4; ++id) scheduler.submit(request(id, 10 + id, 50), clock_.now());
  for (int i = 0; i < 20; ++i) scheduler.commit(engine_.run(scheduler.plan(clock_.now())), clock_.now());
  EXPECT_EQ(scheduler.stats().step_decodes, 4);
}

}  // namespace
}  // namespace sluice
