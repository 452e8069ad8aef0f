// A server that ends and starts again on the same folder: hot prompts are found again, with the same answers.
#include <gtest/gtest.h>

#include <filesystem>

#include "scheduler/scheduler.h"
#include "tests/support/fake_engine.h"
#include "tests/support/manual_clock.h"

namespace sluice {
namespace {

constexpr int32_t kNumPages = 32;

class Life final : public TokenSink {
 public:
  Life(const std::filesystem::path& folder, uint64_t model_hash)
      : cache_({.num_pages = kNumPages, .num_host_pages = 32, .page_bytes = FakeEngine::kPageBytes}),
        scheduler_({.max_batch_tokens = 256}, cache_, *this),
        engine_({.num_pages = kNumPages, .roles_matter = false}) {
    const Status status = cache_.open_disk({.folder = folder,
                                            .max_bytes = 1 << 20,
                                            .page_bytes = FakeEngine::kPageBytes,
                                            .model_hash = model_hash,
                                            .layout_hash = 1});
    EXPECT_TRUE(status.ok()) << status.to_string();
  }

  // The answer to a prompt of `length` tokens that begins with `first`.
  std::vector<TokenId> ask(TokenId first, size_t length) {
    Request request;
    request.id = RequestId{++num_requests_};
    for (size_t i = 0; i < length; ++i) request.prompt.push_back(first + static_cast<TokenId>(i));
    request.stop.max_tokens = 5;
    request.arrival = clock_.now();
    answer_.clear();
    scheduler_.submit(std::move(request), clock_.now());
    while (!scheduler_.idle()) {
      engine_.poison_free(cache_.pool());
      StepResult result = engine_.run(scheduler_.plan(clock_.now()));
      EXPECT_TRUE(engine_.problems().empty()) << engine_.problems().front();
      scheduler_.commit(std::move(result), clock_.now());
      scheduler_.check_invariants();
    }
    return answer_;
  }

  void emit(TokenEvent event) override {
    if (event.token) answer_.push_back(*event.token);
    if (event.finish != FinishReason::kNone) last_ = std::move(event);
  }
  int32_t num_cached() const { return last_.usage.cached_prompt_tokens; }
  ActivationCache& cache() { return cache_; }

 private:
  ManualClock clock_;
  ActivationCache cache_;
  Scheduler scheduler_;
  FakeEngine engine_;
  uint64_t num_requests_ = 0;
  std::vector<TokenId> answer_;
  TokenEvent last_;
};

class RestartTest : public ::testing::Test {
 protected:
  RestartTest() {
    std::string name = ::testing::TempDir() + "sluice-restart-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~RestartTest() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
};

TEST_F(RestartTest, HotPromptsAreFoundAgain) {
  std::vector<TokenId> hot, even;
  {
    Life life(folder_, 7);
    hot = life.ask(100, 300);
    even = life.ask(5000, 128);
    life.ask(900, 200);  // asked once only
    EXPECT_EQ(life.ask(100, 300), hot);
    EXPECT_EQ(life.ask(5000, 128), even);
    for (TokenId first = 0; first < 5; ++first) life.ask(10'000 * (first + 1), 100);  // steps in which it is saved
    life.cache().flush_disk();
    EXPECT_EQ(life.cache().stats().saved_pages, 7);  // 4 full pages and an end, 2 full pages
  }
  for (int restart = 0; restart < 2; ++restart) {
    Life life(folder_, 7);
    EXPECT_EQ(life.cache().stats().loaded_pages, 7);
    EXPECT_EQ(life.ask(100, 300), hot);
    EXPECT_EQ(life.num_cached(), 300);
    EXPECT_EQ(life.ask(5000, 128), even);
    EXPECT_EQ(life.num_cached(), 128);
    life.ask(900, 200);
    EXPECT_EQ(life.num_cached(), 0);
    life.cache().flush_disk();
    EXPECT_EQ(life.cache().stats().saved_pages, 0);  // it is there already
  }
}

TEST_F(RestartTest, AnotherModelStartsCold) {
  {
    Life life(folder_, 7);
    for (int i = 0; i < 8; ++i) life.ask(100, 300);
    life.cache().flush_disk();
  }
  Life life(folder_, 8);
  EXPECT_EQ(life.cache().stats().loaded_pages, 0);
  life.ask(100, 300);
  EXPECT_EQ(life.num_cached(), 0);
}

TEST_F(RestartTest, NeedsAHostTier) {
  ActivationCache cache({.num_pages = 4});
  EXPECT_EQ(cache.open_disk({.folder = folder_}).code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace sluice
