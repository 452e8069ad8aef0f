// Who is let in over HTTP, and how much of his it is.
#include <gmock/gmock.h>

#include <cstdio>
#include <fstream>

#include "server/http_server.h"
#include "tests/server/fake_loop.h"
#include "tests/server/http_bytes.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using testing::HasSubstr;

class HttpSecurityTest : public testing::Test {
 protected:
  HttpSecurityTest()
      : frontend_(queue_, &demo_tokenizer(), clock_),
        loop_(queue_, frontend_, clock_, {kDemoEos}, [](const Request&, int32_t) { return tokens_of_text("Once"); }) {
    const std::string file = testing::TempDir() + "/sluice_http_security_test_" + std::to_string(getpid()) + ".json";
    std::ofstream(file) << R"({"tokens": [{"name": "alice", "max_concurrent": 1, "priority": 3, "sha256": ")"
                        << hex(sha256("a")) << R"("}, {"name": "bob", "sha256": ")" << hex(sha256("b")) << "\"}]}";
    auto loaded = Authenticator::load(file);
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    authenticator_ = std::move(*loaded);
    std::remove(file.c_str());
  }

  void start(bool tokens, bool own_pages_only) {
    const Services services{.frontend = frontend_,
                            .queue = queue_,
                            .model = model_,
                            .tokenizer = &demo_tokenizer(),
                            .chat_format = ChatFormat::kDeepSeekV2,
                            .clock = clock_};
    auto server = HttpServer::start({.address = "127.0.0.1:0",
                                     .max_body_bytes = 1 << 20,
                                     .authenticator = tokens ? authenticator_.get() : nullptr,
                                     .own_pages_only = own_pages_only},
                                    services);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->set_ready(true);
  }

  Connection::Response ask(const std::string& request) {
    Connection connection(server_->port());
    connection.send(request);
    return connection.read_response();
  }
  void wait_for(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(done());
  }
  static std::string bearer(const std::string& token) { return "Authorization: Bearer " + token + "\r\n"; }
  static json endless() { return {{"prompt", "Tell"}, {"max_tokens", 1'000'000}, {"ignore_eos", true}}; }

  SteadyClock clock_;
  ModelInfo model_ = demo_model();
  RequestQueue queue_{QueueLimits{.max_requests = 8, .max_tokens = 10000}};
  Frontend frontend_;
  FakeLoop loop_;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpSecurityTest, NothingButHealthAndThePageIsOpen) {
  start(true, false);
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/v1/models",
                           "/v1/models/demo-moe", "/metrics", "/nowhere", "/?x", "/health/", "//health"}) {
    const bool is_page = std::string(path) == "/?x";
    for (const std::string& headers : {std::string(), bearer("c"), std::string("Authorization: Basic a\r\n")}) {
      const auto response = ask(post(path, endless(), headers));
      EXPECT_EQ(response.status, is_page ? 405 : 401) << path << headers;
      if (is_page) continue;
      EXPECT_THAT(response.head, HasSubstr("\r\nWWW-Authenticate: Bearer\r\n"));
      EXPECT_EQ(response.parsed()["error"]["type"], "authentication_error") << path;
      EXPECT_THAT(response.parsed()["error"]["message"].get<std::string>(), testing::StartsWith("authorization: "));
    }
    EXPECT_NE(ask(post(path, {{"prompt", "Tell"}, {"max_tokens", 2}}, bearer("b"))).status, 401) << path;
  }
  for (const char* path : {"/", "/health", "/ready"}) EXPECT_EQ(ask(get(path)).status, 200) << path;
  EXPECT_EQ(queue_.load().waiting_requests, 0);
}

TEST_F(HttpSecurityTest, AStrangersBodyIsNotRead) {
  start(true, false);
  Connection connection(server_->port());
  connection.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  EXPECT_EQ(connection.read_response().status, 401);  // before a byte of it was sent
  EXPECT_EQ(connection.read_all(), "") << "and the connection ends";
  Connection polite(server_->port());
  for (int i = 0; i < 3; ++i) {  // without a body it goes on
    polite.send(get("/v1/models"));
    EXPECT_EQ(polite.read_response().status, 401);
  }
}

TEST_F(HttpSecurityTest, AClientAtItsLimitWaitsAndOthersDoNot) {
  start(true, false);
  Connection first(server_->port());
  first.send(post("/v1/completions", endless(), bearer("a") + "X-Request-Id: mine\r\n"));
  wait_for([&] { return loop_.num_active() == 1; });
  const auto refused = ask(post("/v1/completions", endless(), bearer("a")));
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.parsed()["error"]["message"], "alice: 1 answers are open, its limit is 1");
  EXPECT_THAT(refused.head, HasSubstr("\r\nRetry-After: "));
  EXPECT_EQ(frontend_.metrics().rejections().at("client_limit"), 1);
  const json shorter = {{"prompt", "Tell"}, {"max_tokens", 3}};
  EXPECT_EQ(ask(post("/v1/completions", shorter, bearer("b"))).status, 200);
  // Answers are ended by the scoped name alone.
  EXPECT_EQ(frontend_.abort("mine"), 0);
  EXPECT_EQ(frontend_.abort("alice\nmine"), 1);
  EXPECT_EQ(first.read_response().status, 499);
  for (int i = 0; i < 20; ++i) {
    const auto next = ask(post("/v1/completions", shorter, bearer("a")));
    ASSERT_EQ(next.status, 200) << i << ": " << next.body;
  }
  const std::vector<Request> requests = loop_.requests();
  EXPECT_EQ(requests[0].cache_salt, "alice\n");
  EXPECT_EQ(requests[0].priority, 3);
  EXPECT_EQ(requests[1].cache_salt, "bob\n");
}

TEST_F(HttpSecurityTest, PagesOfOtherSitesAreTurnedAway) {
  start(false, true);
  const std::string port = std::to_string(server_->port());
  const auto status_of = [&](const std::string& headers) {
    return ask(fmt::format("GET /v1/models HTTP/1.1\r\n{}\r\n", headers)).status;
  };
  for (const std::string& host : {std::string("localhost"), "127.0.0.1:" + port, "localhost:" + port,
                                  std::string("[::1]"), "[::1]:" + port, std::string("127.5.5.5")}) {
    EXPECT_EQ(status_of("Host: " + host + "\r\n"), 200) << host;
    EXPECT_EQ(status_of("Host: " + host + "\r\nOrigin: http://" + host + "\r\n"), 200) << host;
    EXPECT_EQ(status_of("Host: " + host + "\r\nOrigin: http://evil.example\r\n"), 403) << host;
    EXPECT_EQ(status_of("Host: " + host + "\r\nOrigin: null\r\n"), 403) << host;
  }
  // A name of theirs that points here.
  for (const char* host :
       {"evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.1:8080", "[::2]"})
    EXPECT_EQ(status_of(fmt::format("Host: {}\r\nOrigin: http://{}\r\n", host, host)), 403) << host;
  const auto refused = ask("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  EXPECT_EQ(refused.status, 403);
  EXPECT_EQ(refused.parsed()["error"]["type"], "permission_error");
  EXPECT_THAT(refused.parsed()["error"]["message"].get<std::string>(), testing::StartsWith("host: \"evil.example\""));
  EXPECT_EQ(ask("GET /health HTTP/1.0\r\n\r\n").status, 200);
  // With tokens a page of another site has nothing to show.
  start(true, false);
  EXPECT_EQ(status_of("Host: evil.example\r\nOrigin: http://evil.example\r\n" + bearer("b")), 200);
}

}  // namespace
}  // namespace sluice
