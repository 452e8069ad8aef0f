#include "server/auth.h"

#include <gmock/gmock.h>

#include <atomic>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include "server/tls.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using testing::HasSubstr;

// A token file that a test rewrites; gone with it.
class AuthTest : public testing::Test {
 protected:
  AuthTest() : file_(testing::TempDir() + "/sluice_auth_test_" + std::to_string(getpid()) + ".json") {}
  ~AuthTest() override { std::filesystem::remove(file_); }

  void write(const std::string& text) { std::ofstream(file_) << text; }
  static std::string entry(const std::string& token, const std::string& more) {
    return R"({"sha256": ")" + hex(sha256(token)) + "\", " + more + "}";
  }
  std::unique_ptr<Authenticator> load() {
    auto loaded = Authenticator::load(file_);
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    return std::move(*loaded);
  }
  static GenerationTask task(size_t prompt_tokens, int32_t priority = 0, const std::string& salt = "") {
    GenerationTask out;
    out.request.prompt.assign(prompt_tokens, 3);
    out.request.priority = priority;
    out.request.cache_salt = salt;
    return out;
  }

  const std::string file_;
};

TEST(Digest, IsSha256) {
  EXPECT_EQ(hex(sha256("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");  // FIPS 180-2
  EXPECT_EQ(hex(sha256("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_F(AuthTest, KnowsItsTokensAndNoOthers) {
  write("{\"tokens\": [" + entry("one", R"("name": "alice")") + ", // a comment\n" +
        entry("two", R"("name": "bob", "tenant": "acme")") + "]}");
  const auto authenticator = load();
  EXPECT_EQ(authenticator->num_tokens(), 2u);
  const auto alice = authenticator->authenticate("Bearer one");
  ASSERT_TRUE(alice.ok());
  EXPECT_EQ((*alice)->grant().name, "alice");
  EXPECT_EQ((*alice)->grant().tenant, "alice");
  EXPECT_EQ(authenticator->authenticate("bEARER two").value()->grant().tenant, "acme");
  for (const char* header : {"", "Bearer", "Bearer ", "one", "Basic one", "Bearerone", "Bearer one ", "Bearer One",
                             "Bearer three", "Bearer onetwo"}) {
    const auto refused = authenticator->authenticate(header);
    ASSERT_FALSE(refused.ok()) << header;
    EXPECT_EQ(refused.status().code(), StatusCode::kUnauthenticated) << header;
    EXPECT_THAT(refused.status().message(), testing::StartsWith("authorization:"));
  }
  // The hash is no token.
  EXPECT_FALSE(authenticator->authenticate("Bearer " + hex(sha256("one"))).ok());
}

TEST_F(AuthTest, BadFilesAreNamed) {
  const std::string digest = hex(sha256("x"));
  const std::pair<std::string, std::string> cases[] = {
      {"{", "is not JSON"},
      {"[]", ""},
      {R"({"tokens": [], "extra": 1})", "extra"},
      {R"({"tokens": []})", "holds no token"},
      {R"({"tokens": {}})", "tokens"},
      {R"({"tokens": [{"name": "a"}]})", "sha256"},
      {R"({"tokens": [{"name": "a", "sha256": "secret"}]})", "expected the SHA-256 of a token, 64 hexadecimal digits"},
      {R"({"tokens": [{"name": "a", "sha256": ")" + digest.substr(1) + "g\"}]}", "expected the SHA-256"},
      {R"({"tokens": [{"name": "", "sha256": ")" + digest + "\"}]}", "name: must not be empty"},
      {R"({"tokens": [{"name": "a b", "sha256": ")" + digest + "\"}]}", "name: must be printable ASCII"},
      {"{\"tokens\": [" + entry("x", R"("name": "a")") + "," + entry("y", R"("name": "a")") + "]}",
       "\"a\" is there twice"},
      {"{\"tokens\": [" + entry("x", R"("name": "a")") + "," + entry("x", R"("name": "b")") + "]}", "of another entry"},
      {"{\"tokens\": [" + entry("x", R"("name": "a", "max_concurrent": 0)") + "]}", "max_concurrent"},
      {"{\"tokens\": [" + entry("x", R"("name": "a", "priority": 5000)") + "]}", "priority"},
      {"{\"tokens\": [" + entry("x", R"("name": "a", "limit": 5)") + "]}", "limit"}};
  for (const auto& [text, words] : cases) {
    const auto grants = parse_token_file(text, "tokens.json");
    ASSERT_FALSE(grants.ok()) << text;
    const bool unknown_key = words == "extra" || words == "limit";
    EXPECT_EQ(grants.status().code(), unknown_key ? StatusCode::kFailedPrecondition : StatusCode::kInvalidArgument)
        << grants.status().to_string();
    EXPECT_THAT(grants.status().message(), testing::AllOf(testing::StartsWith("tokens.json"), HasSubstr(words)));
    EXPECT_THAT(grants.status().message(), testing::Not(HasSubstr("secret"))) << "a token may have been put there";
  }
  EXPECT_EQ(Authenticator::load(file_ + ".missing").status().code(), StatusCode::kNotFound);
}

TEST_F(AuthTest, AdmitsInTheNameOfTheTenant) {
  write("{\"tokens\": [" + entry("one", R"("name": "alice", "tenant": "acme", "priority": -5)") + "," +
        entry("two", R"("name": "bob", "tenant": "acme")") + "," + entry("three", R"("name": "carol")") + "]}");
  const auto authenticator = load();
  const auto alice = authenticator->authenticate("Bearer one").value();
  const auto bob = authenticator->authenticate("Bearer two").value();
  const auto carol = authenticator->authenticate("Bearer three").value();
  GenerationTask a = task(10), b = task(10, 3), c = task(10, -9), salted = task(10, 0, "mine");
  ASSERT_TRUE(alice->admit(&a).ok() && bob->admit(&b).ok() && carol->admit(&c).ok() && alice->admit(&salted).ok());
  EXPECT_EQ(a.request.cache_salt, b.request.cache_salt) << "one tenant shares its cache";
  EXPECT_NE(a.request.cache_salt, c.request.cache_salt);
  EXPECT_NE(a.request.cache_salt, salted.request.cache_salt);
  EXPECT_EQ(a.request.priority, -5);
  EXPECT_EQ(b.request.priority, 3) << "a request may step back";
  EXPECT_EQ(c.request.priority, 0) << "but not before its token";
  EXPECT_EQ(alice->scoped("id"), bob->scoped("id"));
  EXPECT_NE(alice->scoped("id"), carol->scoped("id"));
}

TEST_F(AuthTest, LimitsHoldAndLeasesGiveBack) {
  write("{\"tokens\": [" + entry("one", R"("name": "alice", "max_concurrent": 2, "max_prompt_tokens": 100)") + "]}");
  const auto authenticator = load();
  const auto alice = authenticator->authenticate("Bearer one").value();
  GenerationTask first = task(60), second = task(41), third = task(40), fourth = task(1);
  ASSERT_TRUE(alice->admit(&first).ok());
  const Status tokens = alice->admit(&second);
  EXPECT_EQ(tokens.to_string(),
            "RESOURCE_EXHAUSTED: alice: 60 prompt tokens are open and 41 more come, its limit is 100");
  ASSERT_TRUE(alice->admit(&third).ok());
  const Status open = alice->admit(&fourth);
  EXPECT_EQ(open.to_string(), "RESOURCE_EXHAUSTED: alice: 2 answers are open, its limit is 2");
  // Refused tasks count nothing, and a reload forgets nothing.
  ASSERT_TRUE(authenticator->reload().ok());
  const auto again = authenticator->authenticate("Bearer one").value();
  EXPECT_FALSE(again->admit(&fourth).ok());
  first.lease.reset();
  EXPECT_TRUE(again->admit(&fourth).ok());
  EXPECT_FALSE(again->admit(&second).ok());
  third.lease.reset();
  fourth.lease.reset();
  EXPECT_TRUE(again->admit(&second).ok());
}

TEST_F(AuthTest, TokensAMinuteAreABucketThatPromptsAndAnswersEmpty) {
  SharedManualClock clock;
  write("{\"tokens\": [" + entry("one", R"("name": "alice", "tokens_per_minute": 600)") + "]}");
  const auto authenticator = Authenticator::load(file_, &clock).value();
  const auto alice = authenticator->authenticate("Bearer one").value();
  Duration wait{};
  GenerationTask first = task(200), second = task(1000), third = task(1);
  ASSERT_TRUE(alice->admit(&first, &wait).ok());
  first.budget->charge(300);  // the answer
  // A prompt longer than what is left comes in (else it never could), and the debt is waited for.
  ASSERT_TRUE(alice->admit(&second, &wait).ok());
  const Status refused = alice->admit(&third, &wait);
  EXPECT_EQ(refused.to_string(),
            "RESOURCE_EXHAUSTED: alice: its tokens of this minute are used up (limit 600 a minute); more in 90.1 s");
  EXPECT_NEAR(seconds(wait), 90.1, 0.001);  // 901 tokens at 10 a second
  clock.advance(std::chrono::seconds(90));
  EXPECT_FALSE(alice->admit(&third, &wait).ok());
  // A reload changes the limit and forgives no debt.
  write("{\"tokens\": [" + entry("one", R"("name": "alice", "tokens_per_minute": 6000)") + "]}");
  ASSERT_TRUE(authenticator->reload().ok());
  const auto again = authenticator->authenticate("Bearer one").value();
  EXPECT_FALSE(again->admit(&third, &wait).ok());
  EXPECT_NEAR(seconds(wait), 0.01, 0.001);
  clock.advance(std::chrono::milliseconds(11));
  EXPECT_TRUE(again->admit(&third, &wait).ok());
  // It holds a minute's worth at most.
  clock.advance(std::chrono::hours(1));
  GenerationTask large = task(6000), one_more = task(1);
  EXPECT_TRUE(again->admit(&large, &wait).ok());
  EXPECT_FALSE(again->admit(&one_more, &wait).ok());
  // No limit any more.
  write("{\"tokens\": [" + entry("one", R"("name": "alice")") + "]}");
  ASSERT_TRUE(authenticator->reload().ok());
  EXPECT_TRUE(again->admit(&one_more, &wait).ok());
}

TEST_F(AuthTest, ReloadTakesNewTokensAndKeepsTheOldOnesIfTheFileIsBad) {
  write("{\"tokens\": [" + entry("one", R"("name": "alice")") + "]}");
  const auto authenticator = load();
  write("{\"tokens\": [" + entry("two", R"("name": "alice")") + "]}");
  EXPECT_TRUE(authenticator->authenticate("Bearer one").ok()) << "nothing is read before reload()";
  ASSERT_TRUE(authenticator->reload().ok());
  EXPECT_FALSE(authenticator->authenticate("Bearer one").ok());
  EXPECT_TRUE(authenticator->authenticate("Bearer two").ok());
  write("{\"tokens\": [");
  EXPECT_EQ(authenticator->reload().code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(authenticator->authenticate("Bearer two").ok());
}

// The list that a client is looked up in may be replaced meanwhile (a use after free if nobody held it: ./check full).
TEST_F(AuthTest, ReloadMayComeWhileSomebodyIsAskedForHisToken) {
  std::string entries = entry("one", R"("name": "alice")");
  for (int i = 0; i < 200; ++i) entries += "," + entry(fmt::format("other {}", i), fmt::format(R"("name": "{}")", i));
  write("{\"tokens\": [" + entries + "]}");
  const auto authenticator = load();
  std::atomic<bool> done{false};
  std::thread asking([&] {
    while (!done) EXPECT_TRUE(authenticator->authenticate("Bearer one").ok());
  });
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(authenticator->reload().ok());
  done = true;
  asking.join();
}

TEST_F(AuthTest, ReloadRevokesAndChangesLimitsOfWhoIsIn) {
  write("{\"tokens\": [" + entry("one", R"("name": "alice")") + "," + entry("two", R"("name": "bob")") + "]}");
  const auto authenticator = load();
  const auto alice = authenticator->authenticate("Bearer one").value();
  const auto bob = authenticator->authenticate("Bearer two").value();
  GenerationTask hers = task(10), his = task(10), next = task(10);
  ASSERT_TRUE(alice->admit(&hers).ok());
  ASSERT_TRUE(bob->admit(&his).ok());
  EXPECT_EQ(hers.client, "alice");
  // Alice's token is replaced, Bob's keeps its hash and gets a limit.
  write("{\"tokens\": [" + entry("new", R"("name": "alice")") + "," +
        entry("two", R"("name": "bob", "max_concurrent": 1)") + "]}");
  ASSERT_TRUE(authenticator->reload().ok());
  EXPECT_TRUE(*hers.revoked);
  EXPECT_FALSE(*his.revoked);
  EXPECT_EQ(alice->admit(&next).code(), StatusCode::kUnauthenticated) << "an open call goes on with an old token";
  EXPECT_EQ(bob->admit(&next).to_string(), "RESOURCE_EXHAUSTED: bob: 1 answers are open, its limit is 1");
  write("{");
  EXPECT_FALSE(authenticator->reload().ok());
  EXPECT_FALSE(*his.revoked) << "a bad file revokes nothing";
}

TEST(Exposure, OnlyLoopbackIsOpenToAll) {
  for (const char* address : {"127.0.0.1:1", "127.9.8.7:1", "localhost:50051", "[::1]:1"}) {
    EXPECT_TRUE(is_loopback(address)) << address;
    EXPECT_TRUE(check_exposure("grpc", address, false, false, false).ok()) << address;
  }
  for (const char* address : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "128.0.0.1:1", ":1",
                              "127.0.0.1.example.org:1", "[::ffff:10.0.0.1]:1"}) {
    EXPECT_FALSE(is_loopback(address)) << address;
    EXPECT_EQ(check_exposure("grpc", address, false, false, false).code(), StatusCode::kInvalidArgument) << address;
    EXPECT_FALSE(check_exposure("grpc", address, true, false, false).ok()) << address;
    EXPECT_FALSE(check_exposure("grpc", address, false, true, false).ok()) << address;
    EXPECT_TRUE(check_exposure("grpc", address, true, true, false).ok()) << address;
    EXPECT_TRUE(check_exposure("grpc", address, false, false, true).ok()) << address;
  }
  EXPECT_THAT(check_exposure("http", "0.0.0.0:80", false, false, false).message(),
              testing::AllOf(testing::StartsWith("http: \"0.0.0.0:80\""), HasSubstr("--insecure")));
}

}  // namespace
}  // namespace sluice
