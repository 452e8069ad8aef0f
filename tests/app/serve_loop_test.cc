// The loop thread with the bundled model behind the bounded door, and clients in threads of their own that cancel, set
// deadlines and cut answers at random: what survives equals the same request alone, and every page comes back. Runs
// under ThreadSanitizer, too (no gRPC).
#include "app/serve_loop.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <random>

#include "app/bench/core_run.h"

namespace sluice {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kNumRequests = 40;
#else
constexpr int kNumRequests = 120;
#endif
constexpr int kNumClients = 4;

struct Heard {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
};

class Listener final : public TokenSink {
 public:
  void emit(TokenEvent event) override {
    const std::lock_guard lock(mutex_);
    Heard& heard = heard_[event.request];
    EXPECT_EQ(heard.finish, FinishReason::kNone) << "an event after the end";
    if (event.token) heard.tokens.push_back(*event.token);
    heard.finish = event.finish;
    num_ended_ += event.finish != FinishReason::kNone;
    ended_.notify_all();
  }
  void wait_for(size_t count) {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return num_ended_ >= count; });
  }
  size_t num_tokens(RequestId id) {
    const std::lock_guard lock(mutex_);
    return heard_[id].tokens.size();
  }
  std::map<RequestId, Heard> take() {
    const std::lock_guard lock(mutex_);
    return heard_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<RequestId, Heard> heard_;
  size_t num_ended_ = 0;
};

Request random_request(std::mt19937_64& random) {
  const auto pick = [&](int count) { return static_cast<int>(random() % static_cast<uint64_t>(count)); };
  Request request;
  const int family = pick(3);
  for (int i = 0, shared = pick(150); i < shared; ++i) request.prompt.push_back(100 + (family * 977 + i * i) % 3000);
  for (int i = 0, own = 1 + pick(20); i < own; ++i) request.prompt.push_back(pick(4000));
  request.sampling.seed = random();
  request.stop.max_tokens = 1 + pick(24);
  request.stop.ignore_eos = true;
  request.priority = pick(3) - 1;
  return request;
}

class ServeLoopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.threads = 1;
    options_.cache_memory_mib = 2;  // 17 pages: little enough for evictions and preemptions
    options_.cache_host_mib = 1;
    options_.context = 256;
    options_.max_running = 8;
    options_.max_batch_tokens = 128;
    loaded_ = std::move(LoadedModel::load(options_)).value();
  }

  // The request alone, cache off.
  std::vector<TokenId> alone(Request request) {
    CoreRun core(*loaded_, {.max_batch_tokens = 128, .context_length = 256},
                 {.num_pages = loaded_->num_pages, .enabled = false});
    return core.run({std::move(request)}, 1).answers[0].tokens;
  }

  Options options_;
  std::unique_ptr<LoadedModel> loaded_;
};

TEST_F(ServeLoopTest, AnswersFourRestlessClientsAsIfEachWereAlone) {
  RequestQueue queue({.max_requests = 1000, .max_tokens = 1'000'000});
  Listener listener;
  std::mutex mutex;
  std::map<RequestId, Request> asked;
  {
    ServeLoop loop(*loaded_, options_, queue, listener);
    ASSERT_TRUE(loop.start(options_).ok());
    std::vector<std::jthread> clients;
    for (int client = 0; client < kNumClients; ++client)
      clients.emplace_back([&, client] {
        std::mt19937_64 random(static_cast<uint64_t>(client));
        std::vector<RequestId> mine;
        for (int i = 0; i < kNumRequests / kNumClients; ++i) {
          Request request = random_request(random);
          request.id = queue.next_id();
          mine.push_back(request.id);
          if (random() % 10 == 0)
            request.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(random() % 60);
          {
            const std::lock_guard lock(mutex);
            asked[request.id] = request;
          }
          ASSERT_TRUE(queue.submit(request).ok());
          if (random() % 8 == 0) queue.cancel(mine[random() % mine.size()]);
          // As the detokeniser does after a stop string: only what has tokens is cut.
          const RequestId cut = mine[random() % mine.size()];
          if (random() % 4 == 0 && listener.num_tokens(cut) > 0) queue.finish(cut, 0, 1);
          std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
        }
      });
    clients.clear();
    listener.wait_for(kNumRequests);
    EXPECT_TRUE(loop.drain(std::chrono::seconds(10)));
    const LoopSnapshot end = loop.snapshot();
    EXPECT_EQ(end.scheduler.running + end.scheduler.waiting, 0);
    EXPECT_EQ(end.pages_used, 0);
    EXPECT_LE(end.busy_seconds, end.wall_seconds);
  }
  EXPECT_EQ(queue.load().waiting_requests, 0);
  int survived = 0, cut = 0, ended_otherwise = 0;
  for (const auto& [id, heard] : listener.take()) {
    Request request = asked.at(id);
    request.deadline = kNever;
    std::vector<TokenId> expected = alone(request);
    ASSERT_NE(heard.finish, FinishReason::kError);
    if (heard.finish == FinishReason::kLength) {
      ++survived;
      ASSERT_EQ(heard.tokens, expected) << "request " << value(id);
    } else {  // what was said until the end is still right
      ++(heard.finish == FinishReason::kStop ? cut : ended_otherwise);
      ASSERT_LE(heard.tokens.size(), expected.size());
      expected.resize(heard.tokens.size());
      ASSERT_EQ(heard.tokens, expected) << "request " << value(id);
    }
  }
  EXPECT_GT(survived, kNumRequests / 2);
  EXPECT_GT(ended_otherwise, 0);
  fmt::print("{} answers survived, {} were cut, {} cancelled or late\n", survived, cut, ended_otherwise);
}

}  // namespace
}  // namespace sluice
