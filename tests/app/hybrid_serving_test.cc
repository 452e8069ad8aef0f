// DeepSeek-V4 behind scheduler and cache: state that cannot be cut back inside a page must survive prefix reuse, exact
// repeats, forks of a half-filled page, preemption, the host tier and a restart on the disk tier. Whatever happens to the pages, an answer is what
// the request gets alone, without a cache. (A compressor that is asked to go on from another position than its state's
// ends the process, so a wrong way of a page cannot pass unseen.)
#include <gtest/gtest.h>

#include <map>

#include "app/loaded_model.h"
#include "app/model_fingerprint.h"
#include "cache/activation_cache.h"
#include "engine/executor.h"
#include "scheduler/scheduler.h"
#include "tests/model/temp_directory.h"
#include "tests/support/source_file.h"

namespace sluice {
namespace {

using Answers = std::map<std::pair<uint64_t, int32_t>, std::vector<TokenId>>;  // (request, choice)

class Core final : public TokenSink {
 public:
  Core(LoadedModel& loaded, CacheOptions cache, int32_t max_running)
      : cache_(with_layout(loaded, cache)),
        scheduler_({.max_batch_tokens = 128, .max_running = max_running, .context_length = 700}, cache_, *this),
        executor_(*loaded.model, loaded.context(), cache.num_pages) {}

  // All of them waiting at once.
  Answers run(const std::vector<Request>& requests) {
    answers_.clear();
    for (const Request& request : requests) {
      scheduler_.submit(request, now_);
      open_ += request.num_choices;
    }
    while (open_ > 0) {
      now_ += std::chrono::milliseconds(1);
      const StepPlan& plan = scheduler_.plan(now_);
      if (plan.empty()) continue;
      StepResult result = executor_.run(plan);
      scheduler_.commit(std::move(result), now_);
      scheduler_.check_invariants();
      cache_.check_invariants();
    }
    return answers_;
  }

  // A server's folder, as it is opened at a start.
  void open_disk(LoadedModel& loaded, const std::string& folder) {
    const KvLayout layout = loaded.model->kv_layout();
    const Status status = cache_.open_disk({.folder = folder,
                                            .max_bytes = 1 << 30,
                                            .page_bytes = layout.bytes_per_page(),
                                            .model_hash = 1,
                                            .layout_hash = layout_fingerprint(layout, "F32")});
    EXPECT_TRUE(status.ok()) << status.to_string();
  }
  ActivationCache& cache() { return cache_; }

  const SchedulerStats& stats() const { return scheduler_.stats(); }
  const CacheStats& cache_stats() const { return cache_.stats(); }

 private:
  static CacheOptions with_layout(LoadedModel& loaded, CacheOptions cache) {
    const KvLayout layout = loaded.model->kv_layout();
    cache.rewindable = layout.rewindable();
    cache.page_bytes = layout.bytes_per_page();
    return cache;
  }
  void emit(TokenEvent event) override {
    EXPECT_TRUE(event.error.ok()) << event.error.to_string();
    if (event.token) answers_[{value(event.request), event.choice}].push_back(*event.token);
    if (event.finish != FinishReason::kNone) --open_;
  }

  ActivationCache cache_;
  Scheduler scheduler_;
  Executor executor_;
  TimePoint now_{};
  Answers answers_;
  int32_t open_ = 0;
};

// Two families of prompts that share beginnings of many lengths, repeats, and several choices.
std::vector<Request> requests() {
  std::vector<Request> all;
  const auto add = [&](uint64_t family, int32_t length, int32_t choices) {
    Request request;
    request.id = RequestId{all.size()};
    for (int32_t i = 0; i < length; ++i)
      request.prompt.push_back(static_cast<TokenId>((static_cast<uint64_t>(i * i) * 13 + 7 * i + family * 31) % 128));
    request.sampling.temperature = 1;
    request.sampling.seed = 11 + all.size();
    request.stop.max_tokens = 20 + static_cast<int32_t>(all.size() * 7 % 60);
    request.stop.ignore_eos = true;
    request.num_choices = choices;
    all.push_back(std::move(request));
  };
  for (const int32_t length : {300, 130, 128, 300, 64, 257, 128, 1, 191})
    for (uint64_t family : {1, 2}) add(family, length, length % 4 == 0 ? 3 : 1);
  return all;
}

class HybridServing : public ::testing::Test {
 protected:
  void SetUp() override {
    Options options;
    options.model = source_file("tests/golden/transformers/v4_flash");
    options.threads = 2;
    options.weights = WeightFormat::kF32;
    options.cache_memory_mib = 64;
    loaded_ = std::move(LoadedModel::load(options)).value();
    Core alone(*loaded_, {.num_pages = 40, .enabled = false}, 4);
    for (const Request& request : requests()) want_.merge(alone.run({request}));
  }

  std::unique_ptr<LoadedModel> loaded_;
  Answers want_;
};

TEST_F(HybridServing, CachedAnswersAreThoseOfColdPrompts) {
  Core core(*loaded_, {.num_pages = 200, .reuse_generated = false}, 8);
  for (int round = 0; round < 2; ++round) EXPECT_EQ(core.run(requests()), want_) << round;
  EXPECT_GT(core.cache_stats().hit_tokens, 3000);
  // Only prompts that end at a page's border are exact repeats.
  EXPECT_GE(core.cache_stats().exact_hits, 6);
}

TEST_F(HybridServing, PreemptionAndTheHostTierChangeNothing) {
  Core core(*loaded_, {.num_pages = 16, .reuse_generated = false, .num_host_pages = 12}, 8);
  for (int round = 0; round < 2; ++round) EXPECT_EQ(core.run(requests()), want_) << round;
  EXPECT_GT(core.stats().preemptions, 0);
  EXPECT_GT(core.cache_stats().evicted_pages, 0);
  EXPECT_GT(core.cache_stats().hit_tokens_host, 0);
}

// A second life on the folder of the first continues from its pages: windows, entries and the compressors' states of
// blocks that a page's end cuts. Nothing is lost but what a page that is not full held.
TEST_F(HybridServing, APrefixSurvivesARestart) {
  const TempDirectory directory;
  const std::string folder = directory.file("pages");
  const CacheOptions options{.num_pages = 200, .reuse_generated = false, .num_host_pages = 200};
  {
    Core first(*loaded_, options, 8);
    first.open_disk(*loaded_, folder);
    for (int round = 0; round < 3; ++round) EXPECT_EQ(first.run(requests()), want_) << round;
    first.cache().flush_disk();
    EXPECT_EQ(first.cache_stats().saved_pages, 8);  // the two whole pages of each of four prompts
  }
  Core second(*loaded_, options, 8);
  second.open_disk(*loaded_, folder);
  EXPECT_EQ(second.cache_stats().loaded_pages, 8);
  EXPECT_EQ(second.run(requests()), want_);
  EXPECT_EQ(second.cache_stats().hit_tokens_host, 8 * kPageTokens);  // what was read lies in host memory first
}

}  // namespace
}  // namespace sluice
