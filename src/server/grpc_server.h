// The listening gRPC server: one port, every service behind one Door, grpc.health.v1 and reflection. Owns sockets and
// gRPC's threads; knows nothing of answers. Made, made ready and shut down by the composition root.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "sluice/clock.h"
#include "sluice/status.h"

#include "server/auth.h"
#include "server/services.h"
#include "server/tls.h"

namespace sluice {

struct GrpcServerOptions {
  std::string address = "127.0.0.1:50051";  // HOST:PORT; port 0 picks a free one
  int64_t max_message_bytes = 16 << 20;     // of a request; a larger one is RESOURCE_EXHAUSTED
  TlsFiles tls{};
  // Asked by every method of every service but health and reflection, which probes and tools call without a token and
  // which tell nothing of a client's. Outlives the server; null lets everybody in.
  const Authenticator* authenticator = nullptr;
};

class GrpcServer {
 public:
  // Listens at once, but is NOT_SERVING and refuses Generate and Chat with UNAVAILABLE until set_ready(true).
  // UNAVAILABLE naming the address when it cannot be listened on, and load_tls()'s errors. `services` outlive the
  // server.
  static Result<std::unique_ptr<GrpcServer>> start(const GrpcServerOptions& options, const Services& services);
  // As shutdown() without grace.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  int port() const;
  const std::string& address() const;  // "HOST:PORT" with the real port

  // Health of "" and of every service, and whether new answers are begun. Any thread.
  void set_ready(bool ready);

  // Connections made a second later see these certificates, those that are open go on. INTERNAL if the machine refuses
  // the memory; the old ones then stay. Only with TLS.
  Status set_tls(const TlsMaterial& material);

  // Drains: nothing new is begun, open answers have `grace` to end and to reach their readers, what is left then ends
  // with UNAVAILABLE, and the port closes. True if nothing had to be cut off. Returns after all calls are gone,
  // whatever the loop thread does.
  bool shutdown(Duration grace);

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
