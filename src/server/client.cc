#include "server/client.h"

#include <grpcpp/grpcpp.h>

#include <fstream>
#include <iterator>
#include <utility>

#include "sluice/v1/inference.grpc.pb.h"

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/wire.h"

namespace sluice {

namespace {

// Answers with prompt log-probabilities may be larger than a request is allowed to be.
constexpr int kUnlimited = -1;
// Of the calls that are answered at once.
constexpr auto kShortCall = std::chrono::seconds(30);

std::chrono::system_clock::time_point time_of_day_in(Duration duration) {
  return std::chrono::system_clock::now() + std::chrono::duration_cast<std::chrono::system_clock::duration>(duration);
}

Result<std::string> read_file(const std::string& name) {
  if (name.empty()) return std::string();
  std::ifstream in(name, std::ios::binary);
  if (!in) return not_found("{}: cannot be read", name);
  return std::string{std::istreambuf_iterator<char>(in), {}};
}

Result<std::shared_ptr<grpc::ChannelCredentials>> credentials_of(const ClientSecurity& security) {
  if (!security.tls && security.ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  SLUICE_ASSIGN_OR_RETURN(options.pem_root_certs, read_file(security.ca));
  SLUICE_ASSIGN_OR_RETURN(options.pem_cert_chain, read_file(security.cert));
  SLUICE_ASSIGN_OR_RETURN(options.pem_private_key, read_file(security.key));
  return grpc::SslCredentials(options);
}

void apply(const CallOptions& options, grpc::ClientContext* context) {
  if (options.timeout > Duration{}) context->set_deadline(time_of_day_in(options.timeout));
  if (!options.request_id.empty()) context->AddMetadata("x-request-id", options.request_id);
}

// The last reads before Finish() must not be skipped, even after a cancellation: gRPC wants the stream empty.
Status read_all(grpc::ClientContext* context, grpc::ClientReader<v1::Answer>* reader,
                const Client::OnMessage& on_message) {
  v1::Answer message;
  bool wanted = true;
  while (reader->Read(&message)) {
    if (!wanted) continue;
    wanted = on_message(message);
    if (!wanted) context->TryCancel();
  }
  return from_grpc(reader->Finish());
}

}  // namespace

struct Client::Impl {
  Impl(std::shared_ptr<grpc::Channel> to, const std::string& token)
      : channel(std::move(to)),
        authorization(token.empty() ? "" : "Bearer " + token),
        inference(v1::Inference::NewStub(channel)),
        health(grpc::health::v1::Health::NewStub(channel)) {}

  void authorize(grpc::ClientContext* context) const {
    if (!authorization.empty()) context->AddMetadata("authorization", authorization);
  }

  // One of the stub's unary methods, answered at once.
  template <typename Response, typename Request, typename Method>
  Result<Response> call(const Request& request, Method method) {
    grpc::ClientContext context;
    context.set_deadline(time_of_day_in(kShortCall));
    authorize(&context);
    Response response;
    const Status status = from_grpc((inference.get()->*method)(&context, request, &response));
    if (!status.ok()) return status;
    return response;
  }

  std::shared_ptr<grpc::Channel> channel;
  std::string authorization;
  std::unique_ptr<v1::Inference::Stub> inference;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

Result<Client> Client::connect(const std::string& target, Duration timeout, const ClientSecurity& security) {
  SLUICE_ASSIGN_OR_RETURN(const auto credentials, credentials_of(security));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kUnlimited);
  // A channel of its own: clients of one process share no connection, so that a load generator can open many.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  auto channel = grpc::CreateCustomChannel(target, credentials, arguments);
  if (!channel->WaitForConnected(time_of_day_in(timeout)))
    return unavailable("no Sluice server answers at \"{}\" (waited {:.1f} s)", target, seconds(timeout));
  return Client(std::make_unique<Impl>(std::move(channel), security.token));
}

Status Client::generate_stream(const v1::GenerateRequest& request, const OnMessage& on_message,
                               const CallOptions& options) {
  grpc::ClientContext context;
  apply(options, &context);
  impl_->authorize(&context);
  const auto reader = impl_->inference->GenerateStream(&context, request);
  return read_all(&context, reader.get(), on_message);
}

Status Client::chat_stream(const v1::ChatRequest& request, const OnMessage& on_message, const CallOptions& options) {
  grpc::ClientContext context;
  apply(options, &context);
  impl_->authorize(&context);
  const auto reader = impl_->inference->ChatStream(&context, request);
  return read_all(&context, reader.get(), on_message);
}

Result<v1::Answer> Client::generate(const v1::GenerateRequest& request, const CallOptions& options) {
  grpc::ClientContext context;
  apply(options, &context);
  impl_->authorize(&context);
  v1::Answer answer;
  const Status status = from_grpc(impl_->inference->Generate(&context, request, &answer));
  if (!status.ok()) return status;
  return answer;
}

Result<v1::Answer> Client::chat(const v1::ChatRequest& request, const CallOptions& options) {
  grpc::ClientContext context;
  apply(options, &context);
  impl_->authorize(&context);
  v1::Answer answer;
  const Status status = from_grpc(impl_->inference->Chat(&context, request, &answer));
  if (!status.ok()) return status;
  return answer;
}

Result<std::vector<uint32_t>> Client::tokenize(const std::string& text) {
  v1::TokenizeRequest request;
  request.set_text(text);
  SLUICE_ASSIGN_OR_RETURN(const v1::TokenizeResponse response,
                          impl_->call<v1::TokenizeResponse>(request, &v1::Inference::Stub::Tokenize));
  return std::vector<uint32_t>(response.token_ids().begin(), response.token_ids().end());
}

Result<std::string> Client::detokenize(const std::vector<uint32_t>& token_ids) {
  v1::DetokenizeRequest request;
  request.mutable_token_ids()->Assign(token_ids.begin(), token_ids.end());
  SLUICE_ASSIGN_OR_RETURN(const v1::DetokenizeResponse response,
                          impl_->call<v1::DetokenizeResponse>(request, &v1::Inference::Stub::Detokenize));
  return response.text();
}

Result<v1::Model> Client::model() {
  return impl_->call<v1::Model>(v1::GetModelRequest(), &v1::Inference::Stub::GetModel);
}

Result<v1::Server> Client::server() {
  return impl_->call<v1::Server>(v1::GetServerRequest(), &v1::Inference::Stub::GetServer);
}

Result<int32_t> Client::abort(const std::string& request_id) {
  v1::AbortRequest request;
  request.set_request_id(request_id);
  SLUICE_ASSIGN_OR_RETURN(const v1::AbortResponse response,
                          impl_->call<v1::AbortResponse>(request, &v1::Inference::Stub::Abort));
  return response.num_aborted();
}

Result<bool> Client::healthy(const std::string& service) {
  grpc::ClientContext context;
  context.set_deadline(time_of_day_in(kShortCall));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const Status status = from_grpc(impl_->health->Check(&context, request, &response));
  if (!status.ok()) return status;
  return response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
}

}  // namespace sluice
