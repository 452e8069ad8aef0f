// Ten thousand random requests against tiny pools, with cancellations, deadlines and stop strings at random moments:
// every answer that survives equals the answer of the same request alone, and every page comes back.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "scheduler/scheduler.h"
#include "tests/support/fake_engine.h"
#include "tests/support/manual_clock.h"

namespace sluice {
namespace {

struct Answer {
  std::vector<TokenId> tokens;
  TokenEvent last;
  bool closed = false;
};

class Collector final : public TokenSink {
 public:
  void emit(TokenEvent event) override {
    Answer& answer = answers[{event.request, event.choice}];
    EXPECT_FALSE(answer.closed) << "an event after the end";
    if (event.token) answer.tokens.push_back(*event.token);
    answer.closed = event.finish != FinishReason::kNone;
    answer.last = std::move(event);
  }
  std::map<std::pair<RequestId, int32_t>, Answer> answers;
};

struct World {
  uint64_t seed = 0;
  int32_t num_requests = 0;
  double failure_rate = 0;  // of steps
  CacheOptions cache;
  SchedulerOptions scheduler;
};

class RandomLife {
 public:
  explicit RandomLife(const World& world)
      : world_(world),
        random_(world.seed),
        cache_(world.cache),
        scheduler_(world.scheduler, cache_, sink_),
        engine_({.num_pages = world.cache.num_pages, .vocab_size = 40, .roles_matter = !world.cache.reuse_generated}) {}

  void run() {
    int32_t submitted = 0;
    while (submitted < world_.num_requests || !scheduler_.idle()) {
      while (submitted < world_.num_requests && chance(0.3)) submit(++submitted);
      disturb();
      step();
      if (::testing::Test::HasFailure()) return;
    }
    verify();
  }

  const SchedulerStats& stats() const { return scheduler_.stats(); }
  const CacheStats& cache_stats() const { return cache_.stats(); }

 private:
  bool chance(double p) { return std::uniform_real_distribution<>(0, 1)(random_) < p; }
  int32_t pick(int32_t low, int32_t high) { return std::uniform_int_distribution<int32_t>(low, high)(random_); }

  // Prompts share beginnings: a few families, cut at random and continued at random; some are exact repeats, some
  // continue an earlier answer.
  std::vector<TokenId> make_prompt() {
    const int32_t max_length = std::min(world_.scheduler.context_length, world_.cache.num_pages * kPageTokens) - 2;
    std::vector<TokenId> prompt;
    if (!requests_.empty() && chance(0.2)) {
      prompt = std::prev(requests_.end(), pick(1, std::min<int32_t>(8, static_cast<int32_t>(requests_.size()))))
                   ->second.prompt;
      if (chance(0.7)) return prompt;
      const auto answer =
          sink_.answers.find({RequestId{static_cast<uint64_t>(pick(1, static_cast<int32_t>(requests_.size())))}, 0});
      if (answer != sink_.answers.end()) {
        prompt = requests_.at(answer->first.first).prompt;
        prompt.insert(prompt.end(), answer->second.tokens.begin(), answer->second.tokens.end());
      }
    } else {
      std::minstd_rand family(static_cast<uint32_t>(pick(1, 5)));
      const int32_t shared = pick(0, 200);
      for (int32_t i = 0; i < shared; ++i) prompt.push_back(static_cast<TokenId>(family() % 40));
    }
    for (int32_t extra = pick(1, 100); extra > 0; --extra) prompt.push_back(pick(0, 39));
    if (std::ssize(prompt) > max_length) prompt.resize(static_cast<size_t>(max_length));
    return prompt;
  }

  void submit(int32_t number) {
    Request request;
    request.id = RequestId{static_cast<uint64_t>(number)};
    request.prompt = make_prompt();
    request.sampling.seed = static_cast<uint64_t>(pick(0, 3)) * 1000;  // equal seeds make equal answers: shared pages
    request.stop.max_tokens = chance(0.3) ? pick(60, 250) : pick(1, 40);
    request.stop.min_tokens = chance(0.2) ? pick(0, request.stop.max_tokens) : 0;
    request.stop.ignore_eos = chance(0.3);
    if (chance(0.2)) request.stop.stop_token_ids = {pick(1, 39)};
    if (chance(0.2)) request.num_choices = pick(2, 3);
    if (chance(0.1)) request.num_prompt_logprobs = 0;
    if (chance(0.2)) request.cache_salt = "other";
    request.priority = pick(-1, 1);
    request.arrival = clock_.now();
    if (chance(0.1)) request.deadline = clock_.now() + std::chrono::milliseconds(pick(1, 300));
    requests_[request.id] = request;
    scheduler_.submit(request, clock_.now());
  }

  void disturb() {
    if (requests_.empty()) return;
    const RequestId target =
        std::prev(requests_.end(), pick(1, std::min<int32_t>(12, static_cast<int32_t>(requests_.size()))))->first;
    if (chance(0.02)) scheduler_.cancel(target);
    if (!chance(0.03)) return;
    const auto answer = sink_.answers.find({target, 0});
    if (answer == sink_.answers.end() || answer->second.closed || answer->second.tokens.empty()) return;
    const int32_t num_tokens = pick(1, static_cast<int32_t>(answer->second.tokens.size()));
    truncated_[target] = num_tokens;
    scheduler_.finish(target, 0, num_tokens);
  }

  void step() {
    clock_.advance(std::chrono::milliseconds(1));
    const StepPlan& plan = scheduler_.plan(clock_.now());
    ASSERT_LE(std::ssize(plan.work), world_.scheduler.max_running);
    if (!world_.scheduler.static_batching) {
      ASSERT_LE(plan.num_tokens(),
                std::max(world_.scheduler.max_batch_tokens, scheduler_.stats().step_decodes + kPageTokens));
    }
    if (plan.empty()) {
      ASSERT_TRUE(scheduler_.idle()) << "requests wait, but there is nothing to do";
      return;
    }
    engine_.poison_free(cache_.pool());
    StepResult result;
    if (chance(world_.failure_rate)) {
      result.status = internal_error("injected");
    } else {
      result = engine_.run(plan);
    }
    ASSERT_TRUE(engine_.problems().empty()) << engine_.problems().front();
    scheduler_.commit(std::move(result), clock_.now());
    scheduler_.check_invariants();
  }

  void verify() {
    const int32_t max_length = std::min(world_.scheduler.context_length, world_.cache.num_pages * kPageTokens);
    for (const auto& [id, request] : requests_) {
      for (int32_t choice = 0; choice < request.num_choices; ++choice) {
        const Answer& answer = sink_.answers[{id, choice}];
        ASSERT_TRUE(answer.closed) << "request " << value(id) << " never ended";
        std::vector<TokenId> alone = engine_.solo(request, choice, world_.scheduler.eos_token_ids, max_length);
        verify_answer(request, choice, answer, alone);
      }
    }
    EXPECT_EQ(cache_.pool().num_used(), 0);
    EXPECT_EQ(cache_.num_available(), world_.cache.num_pages);
    EXPECT_EQ(scheduler_.stats().running + scheduler_.stats().waiting, 0);
  }

  void verify_answer(const Request& request, int32_t choice, const Answer& answer, std::vector<TokenId> alone) {
    const FinishReason finish = answer.last.finish;
    const bool survived = finish == FinishReason::kStop || finish == FinishReason::kLength;
    const bool was_cut = choice == 0 && truncated_.contains(request.id);
    if (world_.failure_rate == 0) {
      ASSERT_NE(finish, FinishReason::kError) << answer.last.error.to_string();
    }
    if (survived && !was_cut) {
      ASSERT_EQ(answer.tokens, alone) << "request " << value(request.id) << " choice " << choice;
      ASSERT_EQ(answer.last.usage.completion_tokens, std::ssize(alone));
    } else {  // what was said until the end is still right
      ASSERT_LE(answer.tokens.size(), alone.size());
      alone.resize(answer.tokens.size());
      ASSERT_EQ(answer.tokens, alone) << "request " << value(request.id) << " choice " << choice;
      if (was_cut && survived) {
        ASSERT_EQ(answer.last.usage.completion_tokens, truncated_.at(request.id));
      }
    }
    ASSERT_LE(answer.last.usage.cached_prompt_tokens, answer.last.usage.prompt_tokens);
  }

  const World world_;
  std::mt19937_64 random_;
  ManualClock clock_;
  Collector sink_;
  ActivationCache cache_;
  Scheduler scheduler_;
  FakeEngine engine_;
  std::map<RequestId, Request> requests_;
  std::map<RequestId, int32_t> truncated_;
};

World tiny(uint64_t seed) {
  World world;
  world.seed = seed;
  world.num_requests = 500;
  world.cache.num_pages = 6 + static_cast<int32_t>(seed % 5) * 7;
  world.cache.enabled = seed % 4 != 0;
  world.cache.reuse_generated = seed % 3 == 0;
  world.cache.num_host_pages = seed % 3 == 1 ? 12 : 0;
  world.cache.page_bytes = FakeEngine::kPageBytes;
  world.failure_rate = seed % 10 == 7 ? 0.01 : 0;
  world.scheduler.static_batching = seed >= 18;
  world.scheduler.keep_finished_rows = seed == 19;
  world.scheduler.max_batch_tokens = seed % 2 == 0 ? 64 : 300;
  world.scheduler.max_running = seed % 5 == 0 ? 3 : 16;
  world.scheduler.context_length = 420;
  world.scheduler.eos_token_ids = {0};
  world.scheduler.ageing = std::chrono::milliseconds(50);
  return world;
}

TEST(SchedulerProperty, TenThousandRequestsAnswerAsIfAlone) {
  int64_t preemptions = 0, hits = 0, exact = 0, deduplicated = 0, evicted = 0, from_host = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RandomLife life(tiny(seed));
    life.run();
    if (HasFailure()) return;
    preemptions += life.stats().preemptions;
    hits += life.cache_stats().hit_tokens;
    exact += life.cache_stats().exact_hits;
    deduplicated += life.cache_stats().deduplicated_pages;
    evicted += life.cache_stats().evicted_pages;
    from_host += life.cache_stats().hit_tokens_host;
  }
  // The test means something only if all of this really happened.
  EXPECT_GT(preemptions, 100);
  EXPECT_GT(hits, 10'000);
  EXPECT_GT(exact, 100);
  EXPECT_GT(deduplicated, 10);
  EXPECT_GT(evicted, 1000);
  EXPECT_GT(from_host, 1000);
  fmt::print(
      "preemptions {}, hit tokens {} ({} from host memory), exact repeats {}, deduplicated pages {}, evicted pages "
      "{}\n",
      preemptions, hits, from_host, exact, deduplicated, evicted);
}

}  // namespace
}  // namespace sluice
