// The HTTP server over real sockets, with a loop that plays back a script.
#include "server/http_server.h"

#include <gmock/gmock.h>

#include <thread>

#include "tests/server/fake_loop.h"
#include "tests/server/http_bytes.h"
#include "tests/server/prometheus_text.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kStory = "Once upon a time there was a little dog. It ran home.";
constexpr int32_t kEndless = 1'000'000;

json endless_stream() { return {{"prompt", "Tell"}, {"max_tokens", kEndless}, {"ignore_eos", true}, {"stream", true}}; }

class HttpServerTest : public testing::Test {
 protected:
  void SetUp() override { start({}); }

  void start(OutboxLimits limits) {
    server_.reset();
    loop_.reset();
    frontend_ = std::make_unique<Frontend>(queue_, &demo_tokenizer(), clock_, limits);
    loop_ = std::make_unique<FakeLoop>(queue_, *frontend_, clock_, model_.eos_token_ids,
                                       [](const Request& request, int32_t) {
                                         std::vector<TokenId> ids = tokens_of_text(kStory);
                                         if (request.stop.max_tokens < kEndless) ids.push_back(kDemoEos);
                                         return ids;
                                       });
    auto server = HttpServer::start({.address = "127.0.0.1:0", .max_body_bytes = 1 << 20},
                                    {.frontend = *frontend_,
                                     .queue = queue_,
                                     .model = model_,
                                     .tokenizer = &demo_tokenizer(),
                                     .chat_format = ChatFormat::kDeepSeekV2,
                                     .clock = clock_,
                                     .version = "1.2.3"});
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->set_ready(true);
  }

  Connection::Response ask(const std::string& request, bool has_body = true) {
    Connection connection(server_->port());
    connection.send(request);
    return connection.read_response(has_body);
  }
  void wait_for(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(done());
  }
  void expect_still_serving() {
    const auto response = ask(post("/v1/completions", {{"prompt", "Tell"}, {"max_tokens", 100}}));
    EXPECT_EQ(response.status, 200) << response.body;
    EXPECT_EQ(response.parsed()["choices"][0]["text"], kStory);
    wait_for([&] { return frontend_->num_open() == 0; });
  }

  SteadyClock clock_;
  RequestQueue queue_{QueueLimits{.max_requests = 16, .max_tokens = 100'000}};
  ModelInfo model_ = demo_model();
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<FakeLoop> loop_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, ServesItsPaths) {
  EXPECT_EQ(ask(get("/health")).body, "ok\n");
  EXPECT_EQ(ask(get("/ready")).status, 200);
  const auto models = ask(get("/v1/models")).parsed();
  EXPECT_EQ(models["data"][0]["id"], "demo-moe");
  EXPECT_EQ(models["data"][0]["max_model_len"], 2048);
  EXPECT_EQ(ask(get("/v1/models/demo-moe")).parsed()["id"], "demo-moe");
  EXPECT_EQ(ask(get("/v1/models/other")).status, 404);
  const auto metrics = ask(get("/metrics"));
  EXPECT_THAT(metrics.head, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_TRUE(PrometheusText(metrics.body).has("sluice_open_answers"));
  const auto page = ask(get("/?from=bookmark"));
  EXPECT_THAT(page.head, HasSubstr("text/html"));
  EXPECT_THAT(page.body, StartsWith("<!doctype html>"));
  const auto tokens = ask(post("/tokenize", {{"prompt", "Once upon"}, {"add_special_tokens", false}})).parsed();
  EXPECT_EQ(tokens["tokens"], json(tokens_of_text("Once upon")));
  EXPECT_EQ(ask(post("/detokenize", {{"tokens", tokens["tokens"]}})).parsed()["prompt"], "Once upon");
  EXPECT_EQ(ask(get("/nothing")).status, 404);
  const auto wrong = ask(get("/v1/completions"));
  EXPECT_EQ(wrong.status, 405);
  EXPECT_THAT(wrong.head, HasSubstr("Allow: POST\r\n"));
  const auto head = ask("HEAD /health HTTP/1.1\r\nHost: x\r\n\r\n", false);
  EXPECT_THAT(head.head, HasSubstr("Content-Length: 3"));
}

TEST_F(HttpServerTest, ReadinessFlipsWhileHealthStays) {
  server_->set_ready(false);
  EXPECT_EQ(ask(get("/ready")).status, 503);
  EXPECT_EQ(ask(get("/health")).status, 200);
  const auto refused = ask(post("/v1/completions", {{"prompt", "x"}}));
  EXPECT_EQ(refused.status, 503);
  EXPECT_THAT(refused.head, HasSubstr("\r\nRetry-After: "));
}

TEST_F(HttpServerTest, AnswersWholeAndStreamed) {
  const auto whole =
      ask(post("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"max_tokens", 100}},
               "X-Request-Id: abc\r\n"));
  EXPECT_EQ(whole.status, 200);
  EXPECT_THAT(whole.head, HasSubstr("X-Request-Id: abc"));
  EXPECT_EQ(whole.parsed()["choices"][0]["message"]["content"], kStory);
  EXPECT_EQ(whole.parsed()["id"], "chatcmpl-abc");
  const auto stream = ask(post("/v1/completions", {{"prompt", "Tell"}, {"max_tokens", 100}, {"stream", true}}));
  EXPECT_THAT(stream.head, HasSubstr("text/event-stream"));
  EXPECT_TRUE(stream.body.ends_with("data: [DONE]\n\n"));
  std::string text;
  std::istringstream lines(stream.body);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("data: {")) text += json::parse(line.substr(6))["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, kStory);
}

TEST_F(HttpServerTest, OldClientsReadToTheEndOfTheConnection) {
  Connection connection(server_->port());
  const std::string body = json{{"prompt", "Tell"}, {"max_tokens", 100}, {"stream", true}}.dump();
  connection.send(fmt::format("POST /v1/completions HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}", body.size(), body));
  const std::string all = connection.read_all();
  EXPECT_THAT(all, StartsWith("HTTP/1.0 200 OK\r\n"));
  EXPECT_THAT(all, testing::Not(HasSubstr("chunked")));
  EXPECT_TRUE(all.ends_with("data: [DONE]\n\n"));
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInTheirOrder) {
  Connection connection(server_->port());
  const std::string ask_story = post("/v1/completions", {{"prompt", "Tell"}, {"max_tokens", 100}});
  connection.send(get("/health") + ask_story + get("/v1/models") + ask_story + get("/health"));
  EXPECT_EQ(connection.read_response().body, "ok\n");
  EXPECT_EQ(connection.read_response().parsed()["choices"][0]["text"], kStory);
  EXPECT_EQ(connection.read_response().parsed()["object"], "list");
  EXPECT_EQ(connection.read_response().parsed()["choices"][0]["text"], kStory);
  EXPECT_EQ(connection.read_response().body, "ok\n");
  for (int i = 0; i < 3; ++i) {  // and the connection goes on
    connection.send(ask_story);
    EXPECT_EQ(connection.read_response().status, 200);
  }
}

TEST_F(HttpServerTest, BodiesMayComeInChunksAndAfterAQuestion) {
  const std::string body = json{{"prompt", "Tell"}, {"max_tokens", 100}}.dump();
  Connection chunked(server_->port());
  chunked.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (const char byte : body) chunked.send(fmt::format("1\r\n{}\r\n", byte));
  chunked.send("0\r\n\r\n");
  EXPECT_EQ(chunked.read_response().parsed()["choices"][0]["text"], kStory);
  Connection careful(server_->port());
  careful.send(fmt::format(
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", body.size()));
  EXPECT_EQ(careful.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  careful.send(body);
  EXPECT_EQ(careful.read_response().status, 200);
}

TEST_F(HttpServerTest, WhatIsNoHttpIsAnsweredAndTheNextClientServed) {
  const std::pair<std::string, int> cases[] = {
      {"garbage\r\n\r\n", 400},
      {"GET /health HTTP/9.9\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nbroken header\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
      {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 9) + std::string(300, '\x07'), 400},
      {"GET /health HTTP/1.1\r\nX: " + std::string(40'000, 'x') + "\r\n\r\n", 431},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 413},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", 400},
  };
  for (const auto& [bytes, status] : cases) {
    Connection connection(server_->port());
    connection.send(bytes);
    const auto response = connection.read_response();
    EXPECT_EQ(response.status, status) << bytes.substr(0, 60);
    EXPECT_TRUE(response.parsed().contains("error")) << response.body;
  }
  expect_still_serving();
  wait_for([&] { return server_->num_connections() == 0; });
}

TEST_F(HttpServerTest, AClientThatIsGoneCancelsItsAnswer) {
  {
    Connection connection(server_->port());
    connection.send(post("/v1/completions", endless_stream()));
    connection.read_until("data: ");
  }
  wait_for([&] { return loop_->num_cancelled() == 1; });
  json whole = endless_stream();
  whole["stream"] = false;
  {
    Connection connection(server_->port());
    connection.send(post("/v1/completions", whole));
    wait_for([&] { return loop_->num_active() == 1; });
  }
  wait_for([&] { return loop_->num_cancelled() == 2; });
  wait_for([&] { return frontend_->num_open() == 0 && server_->num_connections() == 0; });
  expect_still_serving();
}

TEST_F(HttpServerTest, AReaderThatStallsIsDropped) {
  start({.full_bytes = 2000, .max_bytes = 1 << 20, .patience = std::chrono::milliseconds(200)});
  loop_->set_round(std::chrono::microseconds(20));
  Connection connection(server_->port());
  json request = endless_stream();
  request["n"] = 16;
  request["logprobs"] = 5;
  connection.send(post("/v1/completions", request));
  wait_for([&] { return loop_->num_cancelled() == 1; });
  loop_->set_round(std::chrono::microseconds(200));
  expect_still_serving();
}

TEST_F(HttpServerTest, AFullQueueSaysWhenToComeBack) {
  loop_->set_paused(true);
  std::vector<std::unique_ptr<Connection>> waiting;
  for (int i = 0; i < 16; ++i) {
    waiting.push_back(std::make_unique<Connection>(server_->port()));
    waiting.back()->send(post("/v1/completions", {{"prompt", "Tell"}, {"max_tokens", 100}}));
  }
  wait_for([&] { return frontend_->num_open() == 16; });
  const auto refused = ask(post("/v1/completions", {{"prompt", "Tell"}}));
  EXPECT_EQ(refused.status, 429);
  EXPECT_THAT(refused.head, HasSubstr("\r\nRetry-After: "));
  EXPECT_THAT(refused.head, HasSubstr("\r\nretry-after-ms: "));
  EXPECT_EQ(refused.parsed()["error"]["type"], "rate_limit_error");
  loop_->set_paused(false);
  for (const auto& connection : waiting) EXPECT_EQ(connection->read_response().status, 200);
  const PrometheusText metrics(ask(get("/metrics")).body);
  EXPECT_EQ(metrics.value("sluice_rejected_requests_total{reason=\"queue_full\"}"), 1);
}

TEST_F(HttpServerTest, AFailedStepIsAnErrorOfTheServer) {
  loop_->fail_next(internal_error("the step failed"));
  const auto response = ask(post("/v1/completions", {{"prompt", "Tell"}, {"stream", true}}));
  EXPECT_EQ(response.status, 500);
  EXPECT_EQ(response.parsed()["error"]["message"], "the step failed");
}

TEST_F(HttpServerTest, ShutdownLetsAnswersEnd) {
  Connection idle(server_->port());
  idle.send(get("/health"));
  EXPECT_EQ(idle.read_response().status, 200);
  Connection running(server_->port());
  running.send(
      post("/v1/completions", {{"prompt", "Tell"}, {"max_tokens", 500}, {"ignore_eos", true}, {"stream", true}}));
  running.read_until("data: ");
  bool complete = false;
  std::thread stopping([&] { complete = server_->shutdown(std::chrono::seconds(20)); });
  const std::string rest = running.read_all();
  stopping.join();
  EXPECT_TRUE(complete);
  EXPECT_TRUE(rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n")) << rest.substr(rest.size() > 80 ? rest.size() - 80 : 0);
  EXPECT_EQ(idle.read_all(), "") << "the idle connection is closed";
}

TEST_F(HttpServerTest, ShutdownDoesNotWaitForADeadLoop) {
  Connection stream(server_->port()), whole(server_->port());
  stream.send(post("/v1/completions", endless_stream()));
  stream.read_until("data: ");
  loop_->stop();
  whole.send(post("/v1/completions", {{"prompt", "Tell"}}));
  wait_for([&] { return frontend_->num_open() == 2; });
  EXPECT_FALSE(server_->shutdown(std::chrono::milliseconds(50)));
  EXPECT_THAT(stream.read_all(), HasSubstr("the server is shutting down"));
  EXPECT_EQ(whole.read_response().status, 503);
}

TEST_F(HttpServerTest, BadAddressesAreNamed) {
  const Services services{.frontend = *frontend_, .queue = queue_, .model = model_, .clock = clock_};
  for (const auto& [address, message] :
       std::map<std::string, std::string>{{"127.0.0.1", "http: expected HOST:PORT"},
                                          {"127.0.0.1:70000", "http: expected HOST:PORT with a port in [0, 65535]"},
                                          {server_->address(), "http: cannot listen on \"" + server_->address()},
                                          {"203.0.113.1:0", "http: cannot listen on \"203.0.113.1:0\""}}) {
    const auto second = HttpServer::start({.address = address}, services);
    ASSERT_FALSE(second.ok()) << address;
    EXPECT_THAT(second.status().message(), StartsWith(message));
  }
}

}  // namespace
}  // namespace sluice
