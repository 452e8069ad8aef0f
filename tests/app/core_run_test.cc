// The driver of `bench batching` and `bench cache` on the bundled model: counts that must come out whatever the speed.
#include "app/bench/core_run.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

std::vector<Request> requests(int count) {
  std::vector<Request> result(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    Request& request = result[static_cast<size_t>(i)];
    for (int k = 0; k < 20; ++k) request.prompt.push_back(100 * (i + 1) + k);
    request.sampling.temperature = 0;
    request.stop.max_tokens = 3 + 5 * (i % 3);
    request.stop.ignore_eos = true;
  }
  return result;
}

class CoreRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Options options;
    options.threads = 1;
    options.cache_memory_mib = 8;
    loaded_ = std::move(LoadedModel::load(options)).value();
  }
  CoreRunResult run(bool is_static, bool keeps_rows, size_t in_flight) {
    CoreRun core(
        *loaded_,
        {.max_running = 4, .context_length = 256, .static_batching = is_static, .keep_finished_rows = keeps_rows},
        {.num_pages = loaded_->num_pages});
    return core.run(requests(9), in_flight);
  }
  std::unique_ptr<LoadedModel> loaded_;
};

TEST_F(CoreRunTest, AnswersAreTheSameUnderEveryForm) {
  const CoreRunResult continuous = run(false, false, 9), dropped = run(true, false, 9), kept = run(true, true, 9);
  const CoreRunResult alone = run(false, false, 1);
  ASSERT_EQ(continuous.answers.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(continuous.answers[i].tokens.size(), 3 + 5 * (i % 3));
    EXPECT_EQ(continuous.answers[i].tokens, dropped.answers[i].tokens);
    EXPECT_EQ(continuous.answers[i].tokens, kept.answers[i].tokens);
    EXPECT_EQ(continuous.answers[i].tokens, alone.answers[i].tokens);
    EXPECT_GT(continuous.answers[i].first_token_seconds, 0);
  }
  EXPECT_EQ(continuous.scheduler.generated_tokens, 3 * (3 + 8 + 13));
  // Rows: 9 prompts of 20, and every token but the last one of each answer.
  EXPECT_EQ(continuous.rows, 9 * 20 + 72 - 9);
  EXPECT_EQ(dropped.rows, continuous.rows);
  // Answers of 3, 8, 13 by turns. {3, 8, 13, 3}: the short ones run on to 13; {8, 13, 3, 8} too; {13} is alone.
  EXPECT_EQ(kept.rows, dropped.rows + (10 + 5 + 10) + (5 + 10 + 5));
  EXPECT_LT(continuous.scheduler.steps, dropped.scheduler.steps);
}

TEST_F(CoreRunTest, TimesAddUp) {
  const CoreRunResult one = run(false, false, 2);
  EXPECT_LE(one.decode_seconds, one.model_seconds);
  EXPECT_LE(one.model_seconds, one.wall_seconds);
  EXPECT_GT(one.decode_steps, 0);
  EXPECT_LT(one.decode_steps, one.scheduler.steps);
}

}  // namespace
}  // namespace sluice
