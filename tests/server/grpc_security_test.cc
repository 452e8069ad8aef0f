// Every method of every service asks for the token, whoever adds one.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <fstream>

#include "sluice/v1/inference.grpc.pb.h"

#include "fmaas/generation.pb.h"
#include "inference/grpc_service.pb.h"
#include "server/client.h"
#include "server/grpc_server.h"
#include "server/wire.h"
#include "tests/server/fake_loop.h"
#include "tests/server/server_fixture.h"
#include "vllm/grpc/engine/vllm_engine.pb.h"

namespace sluice {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class GrpcSecurityTest : public testing::Test {
 protected:
  GrpcSecurityTest()
      : file_(testing::TempDir() + "/sluice_security_test_" + std::to_string(getpid()) + ".json"),
        frontend_(queue_, &demo_tokenizer(), clock_),
        loop_(queue_, frontend_, clock_, {kDemoEos}, [](const Request&, int32_t) { return tokens_of_text("Once"); }) {
    std::ofstream(file_) << R"({"tokens": [{"name": "alice", "max_concurrent": 1, "sha256": ")" << hex(sha256("a"))
                         << R"("}, {"name": "bob", "sha256": ")" << hex(sha256("b")) << "\"}]}";
    auto loaded = Authenticator::load(file_);
    EXPECT_TRUE(loaded.ok()) << loaded.status().to_string();
    authenticator_ = std::move(*loaded);
    std::remove(file_.c_str());
    const Services services{.frontend = frontend_,
                            .queue = queue_,
                            .model = model_,
                            .tokenizer = &demo_tokenizer(),
                            .chat_format = ChatFormat::kDeepSeekV2,
                            .clock = clock_};
    auto server = GrpcServer::start({.address = "127.0.0.1:0", .authenticator = authenticator_.get()}, services);
    EXPECT_TRUE(server.ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->set_ready(true);
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  }

  Status call(const std::string& method, const std::string& authorization) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    grpc::CompletionQueue done;
    const grpc::Slice slice("");
    auto call = stub.PrepareUnaryCall(&context, method, grpc::ByteBuffer(&slice, 1), &done);
    call->StartCall();
    grpc::ByteBuffer answer;
    grpc::Status status;
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(done.Next(&tag, &ok));
    return from_grpc(status);
  }
  Client client(const std::string& token) {
    auto connected = Client::connect(server_->address(), std::chrono::seconds(5), {.token = token});
    EXPECT_TRUE(connected.ok()) << connected.status().to_string();
    return std::move(*connected);
  }
  static v1::GenerateRequest endless(const std::string& id) {
    v1::GenerateRequest request;
    request.set_text("Tell me");
    request.set_request_id(id);
    request.mutable_stopping()->set_max_tokens(1'000'000);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }
  void wait_for(const std::function<bool()>& done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!done() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_TRUE(done());
  }

  const std::string file_;
  SteadyClock clock_;
  ModelInfo model_ = demo_model();
  RequestQueue queue_{QueueLimits{.max_requests = 8, .max_tokens = 10000}};
  Frontend frontend_;
  FakeLoop loop_;
  std::unique_ptr<Authenticator> authenticator_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(GrpcSecurityTest, NoMethodIsOpen) {
  const google::protobuf::FileDescriptor* files[] = {
      v1::GenerateRequest::descriptor()->file(), inference::ModelInferRequest::descriptor()->file(),
      vllm::grpc::engine::GenerateRequest::descriptor()->file(), fmaas::GenerationRequest::descriptor()->file()};
  int num_methods = 0;
  for (const auto* file : files) {
    ASSERT_EQ(file->service_count(), 1) << file->name();
    const google::protobuf::ServiceDescriptor& service = *file->service(0);
    for (int i = 0; i < service.method_count(); ++i, ++num_methods) {
      const std::string path = "/" + service.full_name() + "/" + service.method(i)->name();
      EXPECT_EQ(call(path, "").to_string(), "UNAUTHENTICATED: authorization: expected \"Bearer TOKEN\"") << path;
      EXPECT_EQ(call(path, "Bearer c").to_string(), "UNAUTHENTICATED: authorization: the token is not known here")
          << path;
      // With the token the method itself answers, whatever it says. A bidirectional stream is only refused here.
      if (!service.method(i)->client_streaming()) {
        EXPECT_NE(call(path, "Bearer a").code(), StatusCode::kUnauthenticated) << path;
      }
    }
  }
  EXPECT_EQ(num_methods, 9 + 20 + 12 + 4);
  EXPECT_EQ(queue_.load().waiting_requests, 0);
}

TEST_F(GrpcSecurityTest, HealthAndReflectionStayOpen) {
  EXPECT_TRUE(client("").healthy("").value());
  EXPECT_TRUE(client("").healthy("fmaas.GenerationService").value());
  EXPECT_TRUE(call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "").ok());
}

TEST_F(GrpcSecurityTest, AClientAtItsLimitWaitsAndOthersDoNot) {
  Client alice = client("a"), bob = client("b");
  Status ended;
  std::thread first([&] { ended = alice.generate(endless("mine")).status(); });
  wait_for([&] { return loop_.num_active() == 1; });
  const Status refused = alice.generate(endless("second")).status();
  EXPECT_EQ(refused.to_string(), "RESOURCE_EXHAUSTED: alice: 1 answers are open, its limit is 1");
  EXPECT_EQ(frontend_.metrics().rejections().at("client_limit"), 1);
  EXPECT_EQ(client("").generate(endless("x")).status().code(), StatusCode::kUnauthenticated);
  EXPECT_EQ(frontend_.metrics().rejections().at("unauthenticated"), 1);
  v1::GenerateRequest shorter = endless("mine");
  shorter.mutable_stopping()->set_max_tokens(3);
  EXPECT_TRUE(bob.generate(shorter).ok());
  // Nobody ends the answers of another tenant, even under the same name.
  EXPECT_EQ(bob.abort("mine").value(), 0);
  wait_for([&] { return loop_.num_active() == 1; });  // alice's; the loop forgets bob's just after its last token
  EXPECT_EQ(alice.abort("mine").value(), 1);
  first.join();
  EXPECT_EQ(ended.code(), StatusCode::kCancelled);
  // Its place is free as soon as the end is there.
  for (int i = 0; i < 20; ++i) {
    const auto next = alice.generate(shorter);
    ASSERT_TRUE(next.ok()) << i << ": " << next.status().to_string();
  }
  const std::vector<Request> requests = loop_.requests();
  EXPECT_EQ(requests[0].cache_salt, "alice\n");
  EXPECT_EQ(requests[1].cache_salt, "bob\n");
}

}  // namespace
}  // namespace sluice
