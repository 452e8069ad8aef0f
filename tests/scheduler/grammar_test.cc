// Constraints follow their choices' tokens: through preemption, forks and truncation, and end answers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "scheduler/scheduler.h"
#include "tests/support/fake_engine.h"
#include "tests/support/manual_clock.h"

namespace sluice {
namespace {

using testing::ElementsAre;

// Token number `length` ends the form. What each constraint has seen is written down.
struct Seen {
  std::map<int, std::vector<TokenId>> tokens;  // by the order in which the constraints began
  int num_begun = 0;
};

class CountingConstraint final : public TokenConstraint {
 public:
  CountingConstraint(Seen& seen, size_t length, bool dead_end)
      : tokens_(seen.tokens[seen.num_begun++]), length_(length), dead_end_(dead_end) {}
  bool allowed(std::span<uint32_t>) override { return !dead_end_; }
  bool advance(TokenId token) override {
    if (dead_end_ && tokens_.size() == 2) return false;
    tokens_.push_back(token);
    return true;
  }
  void roll_back(int32_t num_tokens) override { tokens_.resize(tokens_.size() - static_cast<size_t>(num_tokens)); }
  bool ended() const override { return tokens_.size() == length_; }

 private:
  std::vector<TokenId>& tokens_;
  const size_t length_;
  const bool dead_end_;
};

class CountingGrammar final : public Grammar {
 public:
  CountingGrammar(Seen& seen, size_t length, bool dead_end = false)
      : seen_(seen), length_(length), dead_end_(dead_end) {}
  std::unique_ptr<TokenConstraint> begin(std::optional<TokenId>) const override {
    return std::make_unique<CountingConstraint>(seen_, length_, dead_end_);
  }

 private:
  Seen& seen_;
  const size_t length_;
  const bool dead_end_;
};

class GrammarSchedulerTest : public testing::Test, public TokenSink {
 protected:
  void start(int32_t num_pages) {
    cache_.emplace(CacheOptions{.num_pages = num_pages});
    scheduler_.emplace(SchedulerOptions{.max_batch_tokens = 64, .max_running = 8, .context_length = 500}, *cache_,
                       *this);
    engine_.emplace(FakeEngineOptions{.num_pages = num_pages});
  }
  void emit(TokenEvent event) override {
    if (event.token) answers_[{value(event.request), event.choice}].push_back(*event.token);
    if (event.finish != FinishReason::kNone) ends_[{value(event.request), event.choice}] = event;
  }
  Request request(uint64_t id, size_t num_prompt, std::shared_ptr<const Grammar> grammar) const {
    Request out;
    out.id = RequestId{id};
    for (size_t i = 0; i < num_prompt; ++i) out.prompt.push_back(static_cast<TokenId>(1 + i * id));
    out.stop.max_tokens = 300;
    out.arrival = clock_.now();
    out.grammar = std::move(grammar);
    return out;
  }
  bool step() {
    const StepPlan& plan = scheduler_->plan(clock_.now());
    if (plan.empty()) return false;
    StepResult result = engine_->run(plan);
    clock_.advance(std::chrono::milliseconds(10));
    scheduler_->commit(std::move(result), clock_.now());
    scheduler_->check_invariants();
    EXPECT_THAT(engine_->problems(), ElementsAre());
    return true;
  }

  ManualClock clock_;
  std::optional<ActivationCache> cache_;
  std::optional<Scheduler> scheduler_;
  std::optional<FakeEngine> engine_;
  std::map<std::pair<uint64_t, int32_t>, std::vector<TokenId>> answers_;
  std::map<std::pair<uint64_t, int32_t>, TokenEvent> ends_;
};

TEST_F(GrammarSchedulerTest, TheEndOfTheFormEndsTheAnswerWhateverElseIsAsked) {
  start(16);
  Seen seen;
  Request wanted = request(1, 10, std::make_shared<CountingGrammar>(seen, 5));
  wanted.stop.min_tokens = 50;
  wanted.stop.ignore_eos = true;
  scheduler_->submit(wanted, clock_.now());
  while (step()) {
  }
  EXPECT_EQ(answers_[std::pair(1, 0)].size(), 5u);
  const TokenEvent end = ends_[std::pair(1, 0)];
  EXPECT_EQ(end.finish, FinishReason::kStop);
  EXPECT_EQ(end.matched_token, answers_[std::pair(1, 0)].back());
  EXPECT_EQ(seen.tokens[0], answers_[std::pair(1, 0)]);
}

TEST_F(GrammarSchedulerTest, EachChoiceHasItsOwnAndPreemptionDoesNotTouchThem) {
  start(8);  // 512 positions for four answers of 1 + 200
  Seen seen;
  for (uint64_t id = 1; id <= 2; ++id) {
    Request wanted = request(id, 60, std::make_shared<CountingGrammar>(seen, 200));
    wanted.num_choices = 2;
    wanted.sampling.seed = id * 10;
    scheduler_->submit(wanted, clock_.now());
  }
  while (step()) {
  }
  EXPECT_GT(scheduler_->stats().preemptions, 0);
  EXPECT_EQ(seen.num_begun, 4);
  std::vector<std::vector<TokenId>> followed, given;
  for (const auto& [order, tokens] : seen.tokens) followed.push_back(tokens);
  for (const auto& [key, tokens] : answers_) given.push_back(tokens);
  EXPECT_THAT(followed, testing::UnorderedElementsAreArray(given));
  for (const auto& tokens : given) EXPECT_EQ(tokens.size(), 200u);
}

TEST_F(GrammarSchedulerTest, WhatAStopStringCutsOffIsRolledBack) {
  start(16);
  Seen seen;
  scheduler_->submit(request(1, 10, std::make_shared<CountingGrammar>(seen, 100)), clock_.now());
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(step());
  scheduler_->finish(RequestId{1}, 0, 3);
  EXPECT_EQ(seen.tokens[0].size(), 3u);
  EXPECT_EQ(ends_[std::pair(1, 0)].finish, FinishReason::kStop);
  EXPECT_TRUE(scheduler_->idle());
}

TEST_F(GrammarSchedulerTest, ADeadEndIsAnErrorOfItsChoiceAlone) {
  start(16);
  Seen seen, other;
  scheduler_->submit(request(1, 10, std::make_shared<CountingGrammar>(seen, 100, true)), clock_.now());
  scheduler_->submit(request(2, 10, std::make_shared<CountingGrammar>(other, 6)), clock_.now());
  while (step()) {
  }
  EXPECT_EQ(answers_[std::pair(1, 0)].size(), 2u);
  EXPECT_EQ(ends_[std::pair(1, 0)].finish, FinishReason::kError);
  EXPECT_FALSE(ends_[std::pair(1, 0)].error.ok());
  EXPECT_EQ(ends_[std::pair(2, 0)].finish, FinishReason::kStop);
  // No token at all: nothing was allowed.
  Seen none;
  scheduler_->submit(request(3, 10, std::make_shared<CountingGrammar>(none, 100, true)), clock_.now());
  engine_->script = nullptr;
  const StepPlan& plan = scheduler_->plan(clock_.now());
  StepResult result = engine_->run(plan);
  ASSERT_NE(plan.work[0].constraint, nullptr);
  result.results[0].token.reset();
  scheduler_->commit(std::move(result), clock_.now());
  EXPECT_EQ(ends_[std::pair(3, 0)].error.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(scheduler_->idle());
}

}  // namespace
}  // namespace sluice
