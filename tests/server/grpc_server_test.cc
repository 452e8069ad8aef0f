// The whole front end over a real socket, with a loop that plays back a script.
#include "server/grpc_server.h"

#include <gmock/gmock.h>
#include <google/protobuf/empty.pb.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <thread>

#include "sluice/v1/inference.grpc.pb.h"

#include "server/client.h"
#include "server/wire.h"
#include "tests/server/fake_loop.h"
#include "tests/server/server_fixture.h"

namespace sluice {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kStory = "Once upon a time there was a little dog. It ran home.";
constexpr int32_t kEndless = 1'000'000;

class GrpcServerTest : public testing::Test {
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
    const Services services{.frontend = *frontend_,
                            .queue = queue_,
                            .model = model_,
                            .tokenizer = &demo_tokenizer(),
                            .chat_format = ChatFormat::kDeepSeekV2,
                            .clock = clock_,
                            .version = "1.2.3",
                            .report = [] {
                              LoopReport report;
                              report.running_sequences = 3;
                              report.generated_tokens = 99;
                              report.memory_bytes = {{"weights", 1024}};
                              return report;
                            }};
    auto server = GrpcServer::start({.address = "127.0.0.1:0", .max_message_bytes = 1 << 20}, services);
    ASSERT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->set_ready(true);
    auto client = Client::connect(server_->address());
    ASSERT_TRUE(client.ok()) << client.status().to_string();
    client_ = std::make_unique<Client>(std::move(*client));
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }

  static v1::GenerateRequest text(const std::string& prompt = "Tell me") {
    v1::GenerateRequest request;
    request.set_text(prompt);
    return request;
  }
  static v1::GenerateRequest endless() {
    v1::GenerateRequest request = text();
    request.mutable_stopping()->set_max_tokens(kEndless);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }
  static v1::ChatRequest chat(const std::string& content) {
    v1::ChatRequest request;
    v1::Message& message = *request.add_messages();
    message.set_role(v1::ROLE_USER);
    message.set_content(content);
    return request;
  }

  void wait_for(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(done());
  }
  // After whatever a test did, the next client is served.
  void expect_still_serving() {
    const auto answer = client_->generate(text());
    ASSERT_TRUE(answer.ok()) << answer.status().to_string();
    EXPECT_EQ(answer->choices(0).text(), kStory);
    wait_for([&] { return frontend_->num_open() == 0; });
  }

  // One call with the given bytes as its request; the answer's bytes.
  Status raw_call(const std::string& method, const std::string& request, std::string* response = nullptr) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    grpc::CompletionQueue done;
    const grpc::Slice slice(request);
    auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &done);
    call->StartCall();
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(done.Next(&tag, &ok));
    if (status.ok() && response) {
      std::vector<grpc::Slice> slices;
      EXPECT_TRUE(answer.Dump(&slices).ok());
      for (const grpc::Slice& part : slices) response->append(reinterpret_cast<const char*>(part.begin()), part.size());
    }
    return from_grpc(status);
  }

  SteadyClock clock_;
  ModelInfo model_ = demo_model();
  RequestQueue queue_{QueueLimits{.max_requests = 8, .max_tokens = 10000}};
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<FakeLoop> loop_;
  std::unique_ptr<GrpcServer> server_;
  std::unique_ptr<Client> client_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(GrpcServerTest, GenerateAnswersWhole) {
  v1::GenerateRequest request = text();
  request.set_request_id("first");
  request.mutable_sampling()->set_seed(-7);
  request.mutable_output()->set_logprobs(1);
  request.mutable_output()->set_prompt_logprobs(0);
  request.mutable_output()->set_echo(true);
  const auto answer = client_->generate(request);
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  EXPECT_EQ(answer->request_id(), "first");
  EXPECT_EQ(answer->model(), "demo-moe");
  EXPECT_EQ(answer->seed(), -7);
  ASSERT_EQ(answer->choices_size(), 1);
  const v1::Choice& choice = answer->choices(0);
  EXPECT_EQ(choice.text(), kStory);
  EXPECT_EQ(choice.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(choice.matched_token_id(), 1u);
  EXPECT_EQ(choice.logprobs_size(), choice.token_ids_size());
  EXPECT_EQ(choice.logprobs(0).chosen().token(), "Once");
  EXPECT_EQ(choice.logprobs(0).top_size(), 1);
  const v1::Usage& usage = answer->usage();
  EXPECT_EQ(usage.completion_tokens(), choice.token_ids_size());
  EXPECT_EQ(usage.prompt_tokens(), answer->prompt().token_ids_size());
  EXPECT_EQ(answer->prompt().text(), "Tell me");
  EXPECT_EQ(answer->prompt().logprobs_size(), usage.prompt_tokens());
  EXPECT_DOUBLE_EQ(answer->timings().first_token_seconds(), 0.003);
  EXPECT_DOUBLE_EQ(answer->timings().seconds_per_token(), 0.010);
  EXPECT_GT(answer->timings().total_seconds(), 0);
}

TEST_F(GrpcServerTest, StreamedDeltasJoinToTheWholeAnswer) {
  v1::Answer last;
  std::string joined;
  std::vector<uint32_t> ids;
  int num_prompts = 0;
  v1::GenerateRequest request = text();
  request.mutable_output()->set_echo(true);
  const Status status = client_->generate_stream(request, [&](const v1::Answer& message) {
    EXPECT_FALSE(last.has_usage()) << "a message after the last one";
    num_prompts += message.has_prompt();
    for (const v1::Choice& choice : message.choices()) {
      joined += choice.text();
      ids.insert(ids.end(), choice.token_ids().begin(), choice.token_ids().end());
    }
    last = message;
    return true;
  });
  EXPECT_TRUE(status.ok()) << status.to_string();
  EXPECT_EQ(num_prompts, 1);
  EXPECT_EQ(joined, kStory);
  EXPECT_EQ(std::ssize(ids), last.usage().completion_tokens());
  EXPECT_EQ(last.choices(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_TRUE(last.has_timings());
  EXPECT_GE(last.seed(), 0);
  EXPECT_FALSE(last.request_id().empty());
}

TEST_F(GrpcServerTest, SeveralChoicesAndAStopString) {
  v1::GenerateRequest request = text();
  request.set_n(2);
  request.mutable_stopping()->add_stop_strings(" little");
  std::map<int, std::string> texts;
  std::map<int, std::string> stops;
  v1::Answer last;
  const Status status = client_->generate_stream(request, [&](const v1::Answer& message) {
    for (const v1::Choice& choice : message.choices()) {
      texts[choice.index()] += choice.text();
      if (choice.has_matched_stop_string()) stops[choice.index()] = choice.matched_stop_string();
    }
    last = message;
    return true;
  });
  EXPECT_TRUE(status.ok());
  const std::string wanted = "Once upon a time there was a";
  EXPECT_THAT(texts, testing::ElementsAre(testing::Pair(0, wanted), testing::Pair(1, wanted)));
  EXPECT_THAT(stops, testing::ElementsAre(testing::Pair(0, " little"), testing::Pair(1, " little")));
  const auto whole = client_->generate(request);
  ASSERT_TRUE(whole.ok());
  ASSERT_EQ(whole->choices_size(), 2);
  EXPECT_EQ(whole->choices(1).text(), wanted);
  EXPECT_EQ(whole->usage().completion_tokens(), last.usage().completion_tokens());
}

TEST_F(GrpcServerTest, ChatsInBothForms) {
  const auto whole = client_->chat(chat("Hello"));
  ASSERT_TRUE(whole.ok()) << whole.status().to_string();
  EXPECT_EQ(whole->choices(0).text(), kStory);
  std::string joined;
  EXPECT_TRUE(client_
                  ->chat_stream(chat("Hello"),
                                [&](const v1::Answer& message) {
                                  for (const v1::Choice& choice : message.choices()) joined += choice.text();
                                  return true;
                                })
                  .ok());
  EXPECT_EQ(joined, kStory);
  const std::vector<Request> requests = loop_->requests();
  EXPECT_THAT(demo_tokenizer().decode(requests.back().prompt).value(), HasSubstr("User: Hello"));
}

TEST_F(GrpcServerTest, TokenizesAndDescribesItself) {
  const auto ids = client_->tokenize("Hello dog");
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(client_->detokenize({ids->begin() + 1, ids->end()}).value(), "Hello dog");
  const auto model = client_->model();
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(model->name(), "demo-moe");
  EXPECT_EQ(model->chat_format(), "deepseek-v2");
  EXPECT_EQ(model->context_length(), 2048);
  EXPECT_FLOAT_EQ(model->default_sampling().temperature(), 0.7f);
  const auto server = client_->server();
  ASSERT_TRUE(server.ok());
  EXPECT_EQ(server->version(), "1.2.3");
  EXPECT_TRUE(server->ready());
  EXPECT_EQ(server->limits().max_message_bytes(), 1 << 20);
  EXPECT_EQ(server->load().running_sequences(), 3);
  EXPECT_EQ(server->load().generated_tokens(), 99);
  EXPECT_EQ(server->memory(0).bytes(), 1024);
}

TEST_F(GrpcServerTest, CancellationReachesTheLoop) {
  int seen = 0;
  const Status streamed = client_->generate_stream(endless(), [&](const v1::Answer&) { return ++seen < 3; });
  EXPECT_EQ(streamed.code(), StatusCode::kCancelled);
  wait_for([&] { return loop_->num_cancelled() == 1 && loop_->num_active() == 0; });

  // A unary call as well.
  grpc::ClientContext context;
  std::thread canceller([&] {
    wait_for([&] { return loop_->num_active() == 1; });
    context.TryCancel();
  });
  v1::Answer answer;
  EXPECT_EQ(stub_->Generate(&context, endless(), &answer).error_code(), grpc::StatusCode::CANCELLED);
  canceller.join();
  wait_for([&] { return loop_->num_cancelled() == 2 && loop_->num_active() == 0; });
  expect_still_serving();
}

TEST_F(GrpcServerTest, DeadlinesTravelToTheLoopAndBack) {
  const auto answer = client_->generate(endless(), {.timeout = std::chrono::milliseconds(100), .request_id = {}});
  EXPECT_EQ(answer.status().code(), StatusCode::kDeadlineExceeded);
  wait_for([&] { return loop_->num_active() == 0; });
  ASSERT_EQ(loop_->requests().size(), 1u);
  EXPECT_LT(loop_->requests()[0].deadline, clock_.now() + std::chrono::seconds(1));
  expect_still_serving();
  EXPECT_EQ(loop_->requests().back().deadline, kNever);
}

TEST_F(GrpcServerTest, AbortEndsACallByItsId) {
  EXPECT_EQ(client_->abort("nobody").value(), 0);
  EXPECT_THAT(client_->abort("").status().message(), StartsWith("request_id:"));
  v1::GenerateRequest request = endless();
  request.set_request_id("mine");
  v1::Answer last;
  // The last message says how it ended, and so does the status behind it. gRPC's client throws away what it has not read
  // when a status other than OK comes, so a slow reader may miss that message; not twenty times.
  const auto told = [&] {
    return last.choices_size() == 1 && last.choices(0).finish_reason() == v1::FINISH_REASON_CANCELLED;
  };
  for (int attempt = 0; attempt < 20 && !told(); ++attempt) {
    std::thread aborter([&] {
      wait_for([&] { return loop_->num_active() == 1; });
      EXPECT_EQ(client_->abort("mine").value(), 1);
    });
    const Status status = client_->generate_stream(request, [&](const v1::Answer& message) {
      last = message;
      return true;
    });
    aborter.join();
    EXPECT_EQ(status.code(), StatusCode::kCancelled);
    wait_for([&] { return loop_->num_active() == 0; });
  }
  EXPECT_TRUE(told());
  EXPECT_GT(last.usage().completion_tokens(), 0);
  expect_still_serving();
}

TEST_F(GrpcServerTest, MetadataComesBackAndNamesTheRequest) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "from-metadata");
  context.AddMetadata("x-correlation-id", "corr");
  v1::Answer answer;
  ASSERT_TRUE(stub_->Generate(&context, text(), &answer).ok());
  EXPECT_EQ(answer.request_id(), "from-metadata");
  const auto& metadata = context.GetServerInitialMetadata();
  ASSERT_EQ(metadata.count("x-request-id"), 1u);
  EXPECT_EQ(metadata.find("x-request-id")->second, "from-metadata");
  EXPECT_EQ(metadata.find("x-correlation-id")->second, "corr");
}

TEST_F(GrpcServerTest, AFullQueueSaysWhenToComeBack) {
  loop_->set_paused(true);
  std::vector<std::thread> waiting;
  std::atomic<int> answered{0};
  for (int i = 0; i < 8; ++i) waiting.emplace_back([&] { answered += client_->generate(text()).ok(); });
  wait_for([&] { return queue_.load().waiting_requests == 8; });
  grpc::ClientContext context;
  v1::Answer answer;
  const grpc::Status status = stub_->Generate(&context, text(), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("8 requests wait"));
  const auto& trailing = context.GetServerTrailingMetadata();
  ASSERT_EQ(trailing.count("grpc-retry-pushback-ms"), 1u);
  const auto hint = trailing.find("grpc-retry-pushback-ms")->second;
  const int milliseconds = std::stoi(std::string(hint.data(), hint.size()));
  EXPECT_GE(milliseconds, 500);
  EXPECT_LT(milliseconds, 1500);
  loop_->set_paused(false);
  for (std::thread& thread : waiting) thread.join();
  EXPECT_EQ(answered, 8);
  expect_still_serving();
}

TEST_F(GrpcServerTest, ASlowReaderIsDroppedAndOthersAreServed) {
  start({.full_bytes = 1024, .max_bytes = 64 << 20, .patience = std::chrono::milliseconds(200)});
  loop_->set_round(std::chrono::microseconds(10));
  v1::GenerateRequest request = endless();
  request.mutable_output()->set_logprobs(20);  // fills the connection's windows soon
  grpc::ClientContext context;
  const auto reader = stub_->GenerateStream(&context, request);
  wait_for([&] { return loop_->num_active() == 1; });
  wait_for([&] { return loop_->num_cancelled() == 1; });
  expect_still_serving();
  v1::Answer message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(GrpcServerTest, AFailedStepIsInternal) {
  loop_->fail_next(internal_error("layer 3 produced NaN"));
  const auto answer = client_->generate(text());
  EXPECT_EQ(answer.status().to_string(), "INTERNAL: layer 3 produced NaN");
  expect_still_serving();
}

TEST_F(GrpcServerTest, BadInputIsNamedInBothForms) {
  v1::GenerateRequest hot = text();
  hot.mutable_sampling()->set_temperature(std::nanf(""));
  v1::GenerateRequest unknown = text();
  unknown.set_model("other");
  v1::GenerateRequest endless_prompt;
  endless_prompt.mutable_token_ids()->mutable_ids()->Resize(5000, 3);
  struct Case {
    v1::GenerateRequest request;
    StatusCode code;
    const char* start;
  };
  const Case cases[] = {{text(""), StatusCode::kInvalidArgument, "text:"},
                        {hot, StatusCode::kInvalidArgument, "temperature:"},
                        {unknown, StatusCode::kNotFound, "model:"},
                        {endless_prompt, StatusCode::kInvalidArgument, "token_ids: has 5000 tokens"}};
  for (const Case& item : cases) {
    const Status whole = client_->generate(item.request).status();
    EXPECT_EQ(whole.code(), item.code) << whole.to_string();
    EXPECT_THAT(whole.message(), StartsWith(item.start));
    const Status streamed = client_->generate_stream(item.request, [](const v1::Answer&) { return true; });
    EXPECT_EQ(streamed.to_string(), whole.to_string());
  }
  int64_t rejected = 0;
  for (const auto& [reason, count] : frontend_->metrics().rejections()) rejected += count;
  EXPECT_EQ(rejected, 2 * static_cast<int64_t>(std::size(cases)));
  expect_still_serving();
}

TEST_F(GrpcServerTest, MalformedBytesAreInvalidArguments) {
  const std::string invalid_utf8(
      "\x12\x03"
      "a\xFF"
      "b");  // field 2, text
  Status status = raw_call("/sluice.v1.Inference/Generate", invalid_utf8);
  EXPECT_EQ(status.to_string(), "INVALID_ARGUMENT: text: is not valid UTF-8");
  status = raw_call("/sluice.v1.Inference/Tokenize", invalid_utf8);
  EXPECT_EQ(status.to_string(), "INVALID_ARGUMENT: text: is not valid UTF-8");
  status = raw_call("/sluice.v1.Inference/Chat", "\x12\x64");
  EXPECT_THAT(status.to_string(), AllOf(StartsWith("INVALID_ARGUMENT"), HasSubstr("sluice.v1.ChatRequest")));
  expect_still_serving();
}

TEST_F(GrpcServerTest, MessagesBeyondTheLimitAreRefused) {
  const Status status = client_->generate(text(std::string(2 << 20, 'a'))).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  expect_still_serving();
}

TEST_F(GrpcServerTest, HealthFollowsReadiness) {
  for (const char* service : {"", "sluice.v1.Inference"}) EXPECT_TRUE(client_->healthy(service).value());
  EXPECT_EQ(client_->healthy("nobody").status().code(), StatusCode::kNotFound);
  server_->set_ready(false);
  for (const char* service : {"", "sluice.v1.Inference"}) EXPECT_FALSE(client_->healthy(service).value());
  EXPECT_EQ(client_->generate(text()).status().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(client_->server()->ready());
  server_->set_ready(true);
  expect_still_serving();
}

// The reflection protocol by hand: request field 7 lists services, field 4 asks for the file of a symbol; response
// field 6 holds the list, field 4 the file descriptors, field 7 an error.
TEST_F(GrpcServerTest, ReflectionListsAndDescribesTheServices) {
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const auto ask = [&](const std::string& request) {
    std::string answer;
    EXPECT_TRUE(raw_call(method, request, &answer).ok());
    google::protobuf::Empty fields;
    EXPECT_TRUE(fields.ParseFromString(answer));
    return fields;
  };
  const auto fields_of = [](const google::protobuf::Empty& message, int number) {
    const google::protobuf::UnknownFieldSet& set = message.GetReflection()->GetUnknownFields(message);
    std::vector<std::string> values;
    for (int i = 0; i < set.field_count(); ++i)
      if (set.field(i).number() == number) values.push_back(set.field(i).length_delimited());
    return values;
  };
  const auto parsed = [](const std::string& bytes) {
    google::protobuf::Empty set;
    EXPECT_TRUE(set.ParseFromString(bytes));
    return set;
  };
  const auto lists = fields_of(ask(std::string("\x3A\x00", 2)), 6);
  ASSERT_EQ(lists.size(), 1u);
  std::vector<std::string> names;
  for (const std::string& service : fields_of(parsed(lists[0]), 1))
    names.push_back(fields_of(parsed(service), 1).at(0));
  EXPECT_THAT(names, Contains("sluice.v1.Inference"));
  EXPECT_THAT(names, Contains("grpc.reflection.v1alpha.ServerReflection"));
  EXPECT_THAT(names, Contains("grpc.health.v1.Health"));
  for (const std::string symbol : {"sluice.v1.Inference", "grpc.health.v1.Health"}) {
    const auto files = fields_of(ask(std::string("\x22") + static_cast<char>(symbol.size()) + symbol), 4);
    ASSERT_EQ(files.size(), 1u) << symbol;
    EXPECT_THAT(files[0], HasSubstr(symbol.substr(symbol.rfind('.') + 1)));
  }
}

TEST_F(GrpcServerTest, ManyClientsAtOnce) {
  std::atomic<int> correct{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i)
    clients.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        std::string joined;
        const Status status = client_->generate_stream(text(), [&](const v1::Answer& message) {
          for (const v1::Choice& choice : message.choices()) joined += choice.text();
          return true;
        });
        correct += status.ok() && joined == kStory;
      }
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(correct, 60);
  EXPECT_EQ(frontend_->num_open(), 0);
}

TEST_F(GrpcServerTest, ShutdownLetsAnswersEnd) {
  loop_->set_round(std::chrono::milliseconds(5));
  Result<v1::Answer> answer = internal_error("not called");
  std::thread caller([&] { answer = client_->generate(text()); });
  wait_for([&] { return loop_->num_active() == 1; });
  EXPECT_TRUE(server_->shutdown(std::chrono::seconds(20)));
  caller.join();
  ASSERT_TRUE(answer.ok()) << answer.status().to_string();
  EXPECT_EQ(answer->choices(0).text(), kStory);
}

TEST_F(GrpcServerTest, ShutdownCutsOffWhatDoesNotEndEvenWithoutALoop) {
  Status streamed, whole;
  std::thread streamer([&] { streamed = client_->generate_stream(endless(), [](const v1::Answer&) { return true; }); });
  std::thread caller([&] { whole = client_->generate(endless()).status(); });
  wait_for([&] { return loop_->num_active() == 2; });
  loop_->stop();
  EXPECT_FALSE(server_->shutdown(std::chrono::milliseconds(50)));
  streamer.join();
  caller.join();
  EXPECT_EQ(streamed.code(), StatusCode::kUnavailable);
  EXPECT_EQ(whole.code(), StatusCode::kUnavailable);
}

TEST_F(GrpcServerTest, ATakenPortIsNamed) {
  const Services services{.frontend = *frontend_, .queue = queue_, .model = model_, .clock = clock_};
  const auto second = GrpcServer::start({.address = server_->address()}, services);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(second.status().message(), HasSubstr(server_->address()));
  // gRPC alone would take 99999 modulo 65536 and serve there.
  for (const char* address : {"no such host:x", "127.0.0.1:99999", "127.0.0.1:", "127.0.0.1"}) {
    const auto refused = GrpcServer::start({.address = address}, services);
    ASSERT_FALSE(refused.ok()) << address;
    EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument) << address;
  }
}

TEST(ClientTest, NamesATargetThatDoesNotAnswer) {
  const auto client = Client::connect("127.0.0.1:1", std::chrono::milliseconds(200));
  ASSERT_FALSE(client.ok());
  EXPECT_EQ(client.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(client.status().message(), HasSubstr("127.0.0.1:1"));
}

}  // namespace
}  // namespace sluice
