#include "server/grpc_server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <chrono>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "sluice/log.h"

#include "grpc/health/v1/health.pb.h"
#include "server/address.h"
#include "server/fmaas_service.h"
#include "server/inference_service.h"
#include "server/kserve_service.h"
#include "server/memory_file.h"
#include "server/vllm_service.h"

namespace sluice {

namespace {

// A peer that answers no ping for this long is gone, and its answers are cancelled. Clients may ping as often as they
// like, with or without calls.
constexpr int kKeepaliveMs = 60'000, kKeepaliveTimeoutMs = 20'000;
// How often gRPC looks at the certificates; its shortest.
constexpr unsigned kWatchSeconds = 1;
// For the last bytes of answers to reach their readers at shutdown.
constexpr auto kFlushTime = std::chrono::seconds(1);

void log_grpc(gpr_log_func_args* line) {
  if (line->severity == GPR_LOG_SEVERITY_ERROR) {
    log_warn("gRPC: {}", line->message);
  } else {
    log_debug("gRPC: {}", line->message);
  }
}

// Whoever sends invalid UTF-8 is told so in the answer, and must not fill our log.
void log_protobuf(google::protobuf::LogLevel, const char* file, int line, const std::string& message) {
  log_debug("protobuf: {}:{}: {}", file, line, message);
}

// What the libraries keep once per process.
void set_up_libraries() {
  static std::once_flag once;
  std::call_once(once, [] {
    gpr_set_log_function(log_grpc);
    google::protobuf::SetLogHandler(log_protobuf);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    // Reflection describes what is linked in; a mention keeps the linker from leaving these messages out.
    grpc::health::v1::HealthCheckRequest::default_instance();
  });
}

}  // namespace

// Certificates as gRPC's own watcher wants them: by file name. What it sees has been checked and changes in one step,
// unlike the operator's files, of which the certificate may be new and the key old for a moment.
struct WatchedCertificates {
  Status set(const TlsMaterial& material) {
    // One file for both: a reader finds the parts by their PEM headers.
    SLUICE_RETURN_IF_ERROR(key_and_cert.replace(material.key + "\n" + material.cert));
    return material.client_ca.empty() ? Status() : client_ca.replace(material.client_ca);
  }

  MemoryFile key_and_cert, client_ca;
};

struct GrpcServer::Impl {
  Impl(const Services& deps, const GrpcServerOptions& options)
      : frontend(deps.frontend), tls_files(options.tls), door(deps, options.authenticator) {
    services.push_back(std::make_unique<InferenceService>(door, options.max_message_bytes));
    services.push_back(std::make_unique<KServeService>(door));
    services.push_back(std::make_unique<VllmService>(door));
    services.push_back(std::make_unique<FmaasService>(door));
  }

  void set_serving(bool serving) {
    door.set_ready(serving);
    grpc::HealthCheckServiceInterface* health = server->GetHealthCheckService();
    for (const auto& service : services) health->SetServingStatus(service->name(), serving);
    health->SetServingStatus("", serving);
  }

  Result<std::shared_ptr<grpc::ServerCredentials>> credentials();

  Frontend& frontend;
  const TlsFiles tls_files;
  WatchedCertificates certificates;
  Door door;
  std::vector<std::unique_ptr<RpcService>> services;
  std::unique_ptr<grpc::Server> server;
  std::string address;
  int port = 0;
};

GrpcServer::GrpcServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::shared_ptr<grpc::ServerCredentials>> GrpcServer::Impl::credentials() {
  if (tls_files.empty()) return grpc::InsecureServerCredentials();
  SLUICE_ASSIGN_OR_RETURN(const TlsMaterial material, load_tls(tls_files));
  SLUICE_RETURN_IF_ERROR(certificates.set(material));
  namespace tls = grpc::experimental;
  const std::string pair = certificates.key_and_cert.path();
  tls::TlsServerCredentialsOptions options(
      std::make_shared<tls::FileWatcherCertificateProvider>(pair, pair, certificates.client_ca.path(), kWatchSeconds));
  options.watch_identity_key_cert_pairs();
  if (!tls_files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

Result<std::unique_ptr<GrpcServer>> GrpcServer::start(const GrpcServerOptions& options, const Services& services) {
  SLUICE_ASSIGN_OR_RETURN(const HostPort wanted, parse_host_port("grpc", options.address));
  set_up_libraries();
  auto impl = std::make_unique<Impl>(services, options);
  SLUICE_ASSIGN_OR_RETURN(const auto credentials, impl->credentials());
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.address, credentials, &impl->port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  // Two servers on one port would share its clients at random.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  for (const auto& service : impl->services) builder.RegisterService(service.get());
  impl->server = builder.BuildAndStart();
  if (!impl->server || impl->port == 0)
    return unavailable(
        "grpc: cannot listen on \"{}\": expected HOST:PORT with an address of this machine and a free port that this "
        "user may take",
        options.address);
  impl->address = fmt::format("{}:{}", wanted.host, impl->port);
  impl->set_serving(false);
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(impl)));
}

GrpcServer::~GrpcServer() { shutdown(Duration{}); }

int GrpcServer::port() const { return impl_->port; }

const std::string& GrpcServer::address() const { return impl_->address; }

void GrpcServer::set_ready(bool ready) { impl_->set_serving(ready); }

Status GrpcServer::set_tls(const TlsMaterial& material) { return impl_->certificates.set(material); }

bool GrpcServer::shutdown(Duration grace) {
  if (!impl_->server) return true;
  impl_->set_serving(false);
  const auto end = std::chrono::steady_clock::now() + grace;
  // An answer is not over when its last token is there: its reader must have taken the end.
  while ((impl_->frontend.num_open() > 0 || impl_->frontend.num_untaken() > 0) &&
         std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  const bool complete = impl_->frontend.num_open() == 0 && impl_->frontend.num_untaken() == 0;
  impl_->frontend.fail_all(unavailable("the server is shutting down"));
  // Every answer has its end now; what was just written needs a moment to leave. Who does not read is cut off.
  impl_->server->Shutdown(std::chrono::system_clock::now() + kFlushTime);
  impl_->server.reset();
  return complete;
}

}  // namespace sluice
