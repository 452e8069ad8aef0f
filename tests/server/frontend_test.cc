#include "server/frontend.h"

#include <gmock/gmock.h>

#include "tests/server/fake_loop.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using testing::ElementsAre;

constexpr const char* kStory = "Once upon a time there was a little dog. It ran home.";

class FrontendTest : public testing::Test {
 protected:
  void start_loop(std::vector<TokenId> script) {
    start_loop([script](const Request&, int32_t) { return script; });
  }
  void start_loop(FakeLoop::Script script) {
    loop_ = std::make_unique<FakeLoop>(queue_, frontend_, clock_, std::vector<TokenId>{kDemoEos}, std::move(script));
  }

  static GenerationTask task(int32_t max_tokens = 1000) {
    GenerationTask result;
    result.request.prompt = {0, 5, 6};
    result.request.stop.max_tokens = max_tokens;
    return result;
  }

  // Runs one task to its end.
  GenerationEnd run(GenerationTask wanted, GatheringReader& reader) {
    auto stream = frontend_.submit(std::move(wanted), reader);
    EXPECT_TRUE(stream.ok()) << stream.status().to_string();
    reader.begin(*stream);
    return reader.wait();
  }

  static std::vector<TokenId> ended(std::vector<TokenId> ids) {
    ids.push_back(kDemoEos);
    return ids;
  }

  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{.max_requests = 4, .max_tokens = 1000}};
  Frontend frontend_{queue_, &demo_tokenizer(), clock_};
  std::unique_ptr<FakeLoop> loop_;
};

TEST_F(FrontendTest, StreamsTextAndIdsUntilTheEndOfSequence) {
  const std::vector<TokenId> ids = ended(tokens_of_text(kStory));
  start_loop(ids);
  GatheringReader reader;
  const GenerationEnd end = run(task(), reader);
  EXPECT_TRUE(end.status.ok());
  const GenerationDelta whole = reader.choice();
  EXPECT_EQ(whole.text, kStory);
  EXPECT_EQ(whole.token_ids, ids);
  EXPECT_EQ(whole.finish, FinishReason::kStop);
  EXPECT_EQ(whole.matched_token, kDemoEos);
  EXPECT_FALSE(whole.matched_stop);
  EXPECT_EQ(end.usage.prompt_tokens, 3);
  EXPECT_EQ(end.usage.cached_prompt_tokens, 1);
  EXPECT_EQ(end.usage.completion_tokens, std::ssize(ids));
  EXPECT_EQ(end.usage.queue_time, std::chrono::milliseconds(1));
  EXPECT_EQ(end.usage.prefill_time, std::chrono::milliseconds(2));
  EXPECT_EQ(end.time_per_token, std::chrono::milliseconds(10));
  EXPECT_EQ(frontend_.num_open(), 0);
}

TEST_F(FrontendTest, DeltasComeWhileTheAnswerRuns) {
  start_loop(tokens_of_text(kStory));
  GatheringReader reader;
  auto stream = frontend_.submit(task(1'000'000), reader);
  ASSERT_TRUE(stream.ok());
  reader.begin(*stream);
  while (reader.num_deltas() < 3) std::this_thread::yield();
  EXPECT_EQ(frontend_.num_open(), 1);
  (*stream)->cancel();
  EXPECT_EQ(reader.wait().status.code(), StatusCode::kCancelled);
  EXPECT_TRUE(reader.choice().text.starts_with("Once upon"));
}

TEST_F(FrontendTest, ARevokedTokenEndsItsAnswersAndNoOthers) {
  start_loop(tokens_of_text(kStory));
  const auto revoked = std::make_shared<std::atomic<bool>>(false);
  GatheringReader hers, his, late;
  GenerationTask of_alice = task(1'000'000);
  of_alice.revoked = revoked;
  const auto alice = frontend_.submit(of_alice, hers);
  const auto bob = frontend_.submit(task(1'000'000), his);
  ASSERT_TRUE(alice.ok() && bob.ok());
  hers.begin(*alice);
  his.begin(*bob);
  while (hers.num_deltas() < 2 || his.num_deltas() < 2) std::this_thread::yield();
  EXPECT_EQ(frontend_.end_revoked(), 0);
  *revoked = true;
  EXPECT_EQ(frontend_.end_revoked(), 1);
  EXPECT_EQ(hers.wait().status.to_string(), "UNAUTHENTICATED: authorization: the token was taken back");
  EXPECT_TRUE(hers.choice().text.starts_with("Once upon")) << "what was there before stays true";
  EXPECT_EQ(frontend_.submit(of_alice, late).status().code(), StatusCode::kUnauthenticated);
  EXPECT_EQ(frontend_.num_open(), 1);
  EXPECT_EQ(frontend_.num_untaken(), 1);
  const int32_t before = his.num_deltas();
  while (his.num_deltas() == before) std::this_thread::yield();
  (*bob)->cancel();
  EXPECT_EQ(his.wait().status.code(), StatusCode::kCancelled);
}

TEST_F(FrontendTest, TheObserverHearsOfEachEndOnce) {
  std::mutex mutex;
  std::vector<AnswerRecord> records;
  frontend_.set_observer([&](const AnswerRecord& record) {
    std::lock_guard lock(mutex);
    records.push_back(record);
  });
  start_loop(ended(tokens_of_text(kStory)));
  GatheringReader reader, cut;
  GenerationTask wanted = task();
  wanted.client_id = "acme\nrequest-7";  // as auth.h scopes it
  wanted.client = "alice";
  wanted.trace = parse_trace_parent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  run(std::move(wanted), reader);
  loop_->set_paused(true);
  const auto stream = frontend_.submit(task(), cut);
  ASSERT_TRUE(stream.ok());
  cut.begin(*stream);
  frontend_.fail_all(unavailable("over"));
  EXPECT_EQ(cut.wait().status.code(), StatusCode::kUnavailable);
  std::lock_guard lock(mutex);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].request_id, "request-7");
  EXPECT_EQ(records[0].client, "alice");
  EXPECT_EQ(trace_hex(records[0].trace->trace_id.data(), 16), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(records[0].finish, FinishReason::kStop);
  EXPECT_EQ(records[0].end.usage.prompt_tokens, 3);
  EXPECT_EQ(records[1].end.status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(records[1].end.usage.prompt_tokens, 3) << "what is cut has a size, too";
  EXPECT_EQ(records[1].finish, FinishReason::kNone);
}

TEST_F(FrontendTest, EndsAtMaxTokens) {
  start_loop(tokens_of_text(kStory));
  GatheringReader reader;
  run(task(3), reader);
  EXPECT_EQ(reader.choice().finish, FinishReason::kLength);
  EXPECT_EQ(reader.choice().token_ids.size(), 3u);
}

TEST_F(FrontendTest, AWholeAnswerComesOnce) {
  start_loop(ended(tokens_of_text(kStory)));
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.delivery = Delivery::kWhole;
  run(std::move(wanted), reader);
  EXPECT_EQ(reader.num_deltas(), 1);
  EXPECT_EQ(reader.choice().text, kStory);
}

TEST_F(FrontendTest, AStopStringAcrossTokensEndsTheAnswerAndDropsTheOvershoot) {
  const std::vector<TokenId> ids = tokens_of_bytes(kStory);
  start_loop(ids);
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.stop_strings = {"never", " little d"};
  const GenerationEnd end = run(std::move(wanted), reader);
  EXPECT_TRUE(end.status.ok());
  const GenerationDelta whole = reader.choice();
  EXPECT_EQ(whole.text, "Once upon a time there was a");
  EXPECT_EQ(whole.matched_stop, " little d");
  EXPECT_FALSE(whole.matched_token);
  EXPECT_EQ(whole.finish, FinishReason::kStop);
  const auto num_tokens = static_cast<int32_t>(std::string("Once upon a time there was a little d").size());
  EXPECT_EQ(std::ssize(whole.token_ids), num_tokens);
  EXPECT_EQ(end.usage.completion_tokens, num_tokens);
  ASSERT_EQ(loop_->finishes().size(), 1u);
  EXPECT_EQ(loop_->finishes()[0].num_tokens, num_tokens);
}

TEST_F(FrontendTest, AStopStringWinsOverTheEndThatTheLoopFoundMeanwhile) {
  // The stop string is complete with the very last token that max_tokens allows.
  start_loop(tokens_of_bytes("abc."));
  GatheringReader reader;
  GenerationTask wanted = task(4);
  wanted.stop_strings = {"c."};
  const GenerationEnd end = run(std::move(wanted), reader);
  EXPECT_EQ(reader.choice().text, "ab");
  EXPECT_EQ(reader.choice().finish, FinishReason::kStop);
  EXPECT_EQ(reader.choice().matched_stop, "c.");
  EXPECT_EQ(end.usage.completion_tokens, 4);
}

TEST_F(FrontendTest, HeldBackTextComesWithTheEnd) {
  start_loop(ended(tokens_of_bytes("to be or not")));
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.stop_strings = {"nothing"};
  run(std::move(wanted), reader);
  EXPECT_EQ(reader.choice().text, "to be or not");
  EXPECT_EQ(reader.choice().matched_token, kDemoEos);
}

TEST_F(FrontendTest, StopStringsDoNotCountBeforeMinTokens) {
  start_loop(tokens_of_bytes("a.b.c."));
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.stop_strings = {"."};
  wanted.request.stop.min_tokens = 3;
  run(std::move(wanted), reader);
  EXPECT_EQ(reader.choice().text, "a.b");
}

TEST_F(FrontendTest, NeverSplitsACharacter) {
  const std::string text = "caf\u00e9 \U0001F600!";
  start_loop(ended(tokens_of_bytes(text)));
  GatheringReader reader;
  run(task(), reader);
  EXPECT_EQ(reader.choice().text, text);
  // An answer that ends inside a character shows the cut.
  GatheringReader cut;
  run(task(4), cut);
  EXPECT_EQ(cut.choice().text, "caf\uFFFD");
}

TEST_F(FrontendTest, SpecialTokensAndTheStopTokenAreNoText) {
  std::vector<TokenId> ids = tokens_of_bytes("ab");
  const TokenId stop = tokens_of_bytes("Z")[0];
  ids.insert(ids.begin() + 1, kDemoEos);
  ids.push_back(stop);
  start_loop(ids);
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.request.stop.ignore_eos = true;
  wanted.request.stop.stop_token_ids = {stop};
  run(std::move(wanted), reader);
  EXPECT_EQ(reader.choice().text, "ab");
  EXPECT_EQ(reader.choice().token_ids, ids);
  EXPECT_EQ(reader.choice().matched_token, stop);
}

TEST_F(FrontendTest, StripsOneLayoutSpace) {
  start_loop(ended(tokens_of_bytes("  yes")));
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.strip_leading_space = true;
  run(std::move(wanted), reader);
  EXPECT_EQ(reader.choice().text, " yes");
}

TEST_F(FrontendTest, ChoicesAreIndependent) {
  start_loop(
      [](const Request&, int32_t choice) { return ended(tokens_of_bytes(choice == 0 ? "first answer" : "second")); });
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.request.num_choices = 2;
  wanted.stop_strings = {"answer"};
  const GenerationEnd end = run(std::move(wanted), reader);
  EXPECT_EQ(reader.choice(0).text, "first ");
  EXPECT_EQ(reader.choice(0).matched_stop, "answer");
  EXPECT_EQ(reader.choice(1).text, "second");
  EXPECT_EQ(reader.choice(1).matched_token, kDemoEos);
  EXPECT_EQ(end.usage.completion_tokens, 12 + 7);
}

TEST_F(FrontendTest, CarriesLogprobs) {
  start_loop(ended(tokens_of_bytes("ab")));
  GatheringReader reader;
  GenerationTask wanted = task();
  wanted.request.num_logprobs = 2;
  wanted.request.num_prompt_logprobs = 0;
  run(std::move(wanted), reader);
  const GenerationDelta whole = reader.choice();
  ASSERT_EQ(whole.logprobs.size(), 3u);
  EXPECT_EQ(whole.logprobs[0].chosen->token, whole.token_ids[0]);
  EXPECT_EQ(whole.logprobs[0].top.size(), 2u);
  ASSERT_EQ(whole.prompt_logprobs.size(), 3u);
  EXPECT_FALSE(whole.prompt_logprobs[0].chosen);
  EXPECT_EQ(whole.prompt_logprobs[2].chosen->token, 6);
}

TEST_F(FrontendTest, AFailedStepEndsWithItsStatus) {
  start_loop(tokens_of_text(kStory));
  loop_->fail_next(internal_error("no memory"));
  GatheringReader reader;
  const GenerationEnd end = run(task(), reader);
  EXPECT_EQ(end.status.code(), StatusCode::kInternal);
  EXPECT_EQ(end.status.message(), "no memory");
  EXPECT_EQ(reader.choice().finish, FinishReason::kError);
}

TEST_F(FrontendTest, AFullQueueRefusesAndForgets) {
  start_loop(ended(tokens_of_text(kStory)));
  loop_->set_paused(true);
  std::vector<std::unique_ptr<GatheringReader>> readers;
  for (int i = 0; i < 4; ++i) {
    readers.push_back(std::make_unique<GatheringReader>());
    auto stream = frontend_.submit(task(), *readers.back());
    ASSERT_TRUE(stream.ok());
    readers.back()->begin(*stream);
  }
  GatheringReader refused;
  const auto stream = frontend_.submit(task(), refused);
  EXPECT_EQ(stream.status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(frontend_.num_open(), 4);
  loop_->set_paused(false);
  for (auto& reader : readers) EXPECT_TRUE(reader->wait().status.ok());
  EXPECT_EQ(frontend_.num_open(), 0);
}

TEST_F(FrontendTest, AbortEndsAllWithThatId) {
  start_loop(tokens_of_text(kStory));
  GatheringReader first, second, other;
  for (GatheringReader* reader : {&first, &second, &other}) {
    GenerationTask wanted = task(reader == &other ? 200 : 1'000'000);
    wanted.client_id = reader == &other ? "other" : "mine";
    auto stream = frontend_.submit(std::move(wanted), *reader);
    ASSERT_TRUE(stream.ok());
    reader->begin(*stream);
  }
  EXPECT_EQ(frontend_.abort("nobody"), 0);
  EXPECT_EQ(frontend_.abort("mine"), 2);
  EXPECT_EQ(first.wait().status.code(), StatusCode::kCancelled);
  EXPECT_EQ(second.wait().status.code(), StatusCode::kCancelled);
  EXPECT_EQ(second.choice().finish, FinishReason::kCancelled);
  EXPECT_TRUE(other.wait().status.ok());
  EXPECT_EQ(frontend_.abort("mine"), 0);
}

TEST_F(FrontendTest, FailAllEndsAnswersOfADeadLoop) {
  start_loop(tokens_of_text(kStory));
  GatheringReader reader;
  auto stream = frontend_.submit(task(1'000'000), reader);
  ASSERT_TRUE(stream.ok());
  reader.begin(*stream);
  while (reader.num_deltas() == 0) std::this_thread::yield();
  loop_->stop();
  frontend_.fail_all(unavailable("the server is shutting down"));
  EXPECT_EQ(reader.wait().status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(frontend_.num_open(), 0);
}

TEST(FrontendWithoutTokenizer, GivesIdsAlone) {
  SteadyClock clock;
  RequestQueue queue({});
  Frontend frontend(queue, nullptr, clock);
  FakeLoop loop(queue, frontend, clock, {kDemoEos}, [](const Request&, int32_t) {
    return std::vector<TokenId>{7, 8, kDemoEos};
  });
  GatheringReader reader;
  GenerationTask task;
  task.request.prompt = {1};
  auto stream = frontend.submit(std::move(task), reader);
  ASSERT_TRUE(stream.ok());
  reader.begin(*stream);
  EXPECT_TRUE(reader.wait().status.ok());
  EXPECT_THAT(reader.choice().token_ids, ElementsAre(7, 8, kDemoEos));
  EXPECT_EQ(reader.choice().text, "");
}

// A reader whose connection is blocked: it took something once and never comes back.
class BlockedReader final : public AnswerReader {
 public:
  void on_ready() override {
    const AnswerStream::Batch batch = stream->take();
    if (!batch.empty()) began = true;
    if (batch.end) ended = true;
  }
  void on_stalled() override { ++num_stalled; }
  std::shared_ptr<AnswerStream> stream;
  std::atomic<int> num_stalled{0};
  std::atomic<bool> began{false}, ended{false};
};

class SlowReaderTest : public testing::Test {
 protected:
  void start(OutboxLimits limits) {
    frontend_ = std::make_unique<Frontend>(queue_, &demo_tokenizer(), clock_, limits);
    loop_ = std::make_unique<FakeLoop>(queue_, *frontend_, steady_, std::vector<TokenId>{kDemoEos},
                                       [](const Request&, int32_t) { return tokens_of_bytes("abcdefgh"); });
    GenerationTask task;
    task.request.prompt = {1};
    task.request.stop.max_tokens = 1'000'000;
    auto stream = frontend_->submit(std::move(task), reader_);
    ASSERT_TRUE(stream.ok());
    reader_.stream = *stream;
    reader_.on_ready();
  }
  void wait_for(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(done());
  }
  void TearDown() override {
    loop_.reset();
    frontend_.reset();
  }

  SharedManualClock clock_;
  SteadyClock steady_;
  RequestQueue queue_{QueueLimits{}};
  BlockedReader reader_;
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<FakeLoop> loop_;
};

TEST_F(SlowReaderTest, IsDroppedAfterItsPatienceAndItsAnswerCancelled) {
  start({.full_bytes = 64, .max_bytes = 1 << 30, .patience = std::chrono::seconds(10)});
  wait_for([&] { return loop_->num_active() == 1; });
  // Much more than the outbox holds, but the clock stands still.
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  EXPECT_EQ(reader_.num_stalled, 0);
  EXPECT_EQ(loop_->num_cancelled(), 0);
  clock_.advance(std::chrono::seconds(11));
  wait_for([&] { return loop_->num_cancelled() == 1; });
  EXPECT_EQ(reader_.num_stalled, 1);
  wait_for([&] { return frontend_->num_open() == 0; });
}

TEST_F(SlowReaderTest, IsDroppedAtOnceAtTheHardLimit) {
  start({.full_bytes = 64, .max_bytes = 512, .patience = std::chrono::hours(1)});
  wait_for([&] { return loop_->num_cancelled() == 1; });
  EXPECT_EQ(reader_.num_stalled, 1);
}

TEST_F(SlowReaderTest, IsDroppedWhenItLeavesTheEndUntaken) {
  start({.full_bytes = 1 << 20, .max_bytes = 1 << 30, .patience = std::chrono::seconds(10)});
  wait_for([&] { return reader_.began.load(); });
  reader_.stream->cancel();
  wait_for([&] { return frontend_->num_open() == 0; });
  EXPECT_EQ(reader_.num_stalled, 0);
  EXPECT_FALSE(reader_.ended);
  clock_.advance(std::chrono::seconds(11));
  wait_for([&] { return reader_.num_stalled == 1; });
}

TEST_F(SlowReaderTest, CatchesUpInTime) {
  start({.full_bytes = 64, .max_bytes = 1 << 30, .patience = std::chrono::seconds(10)});
  wait_for([&] { return loop_->num_active() == 1; });
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    clock_.advance(std::chrono::seconds(9));
    reader_.on_ready();
  }
  EXPECT_EQ(reader_.num_stalled, 0);
  EXPECT_EQ(loop_->num_cancelled(), 0);
}

// ---- forms

class NoGrammar final : public Grammar {
 public:
  std::unique_ptr<TokenConstraint> begin(std::optional<TokenId>) const override { return nullptr; }
};

// Compiles when the test says so.
class SlowCompiler final : public GrammarCompiler {
 public:
  std::shared_ptr<const Grammar> find(const OutputForm&) override { return known; }
  Status compile(OutputForm form, Done done) override {
    if (!refusal.ok()) return refusal;
    EXPECT_EQ(form.text, "a+");
    waiting.push_back(std::move(done));
    return {};
  }
  std::shared_ptr<const Grammar> known;
  Status refusal;
  std::vector<Done> waiting;
};

class FormTest : public FrontendTest {
 protected:
  void SetUp() override {
    frontend_.set_compiler(&compiler_);
    start_loop(ended(tokens_of_text(kStory)));
  }
  static GenerationTask form_task() {
    GenerationTask out = task();
    out.form = OutputForm{FormKind::kRegex, "a+", "guided_regex"};
    out.client_id = "mine";
    return out;
  }
  SlowCompiler compiler_;
  const std::shared_ptr<const Grammar> grammar_ = std::make_shared<NoGrammar>();
};

TEST_F(FormTest, ARequestComesToTheLoopWithItsGrammarWhenThatIsCompiled) {
  GatheringReader reader, later;
  const auto stream = frontend_.submit(form_task(), reader);
  ASSERT_TRUE(stream.ok());
  reader.begin(*stream);
  ASSERT_EQ(compiler_.waiting.size(), 1u);
  EXPECT_EQ(queue_.load().waiting_requests, 0);
  compiler_.waiting[0](grammar_);
  EXPECT_TRUE(reader.wait().status.ok());
  EXPECT_EQ(loop_->requests()[0].grammar, grammar_);
  compiler_.known = grammar_;
  EXPECT_TRUE(run(form_task(), later).status.ok()) << "known already: no detour";
  EXPECT_EQ(compiler_.waiting.size(), 1u);
  EXPECT_EQ(loop_->requests()[1].grammar, grammar_);
}

TEST_F(FormTest, WhatCannotBeCompiledIsTheAnswersEndAndCountsAsInvalid) {
  GatheringReader reader, second;
  const auto stream = frontend_.submit(form_task(), reader);
  ASSERT_TRUE(stream.ok());
  reader.begin(*stream);
  compiler_.waiting[0](invalid_argument("guided_regex: is no regex"));
  EXPECT_EQ(reader.wait().status.to_string(), "INVALID_ARGUMENT: guided_regex: is no regex");
  EXPECT_EQ(frontend_.metrics().rejections().at("invalid"), 1);
  compiler_.refusal = resource_exhausted("guided_regex: 64 grammars wait");
  EXPECT_EQ(frontend_.submit(form_task(), second).status().code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(frontend_.num_open(), 0);
  EXPECT_TRUE(loop_->requests().empty());
}

TEST_F(FormTest, WhoCancelsOrAbortsBeforeTheLoopHeardOfItIsNotForgotten) {
  GatheringReader cancelled, aborted, failed;
  const auto one = frontend_.submit(form_task(), cancelled);
  const auto two = frontend_.submit(form_task(), aborted);
  const auto three = frontend_.submit(form_task(), failed);
  ASSERT_TRUE(one.ok() && two.ok() && three.ok());
  cancelled.begin(*one);
  aborted.begin(*two);
  failed.begin(*three);
  (*one)->cancel();
  compiler_.waiting[0](grammar_);
  EXPECT_EQ(cancelled.wait().status.code(), StatusCode::kCancelled);
  EXPECT_EQ(frontend_.abort("mine"), 2);
  compiler_.waiting[1](grammar_);
  EXPECT_EQ(aborted.wait().status.code(), StatusCode::kCancelled);
  frontend_.fail_all(unavailable("the end"));
  EXPECT_EQ(failed.wait().status.code(), StatusCode::kUnavailable);
  compiler_.waiting[2](grammar_);
  EXPECT_EQ(frontend_.num_open(), 0);
  EXPECT_TRUE(loop_->requests().empty());
}

}  // namespace
}  // namespace sluice
