// The listening HTTP server: connections, requests in and bytes out. Owns sockets and its threads; what is answered is
// http_api.h's. Made, made ready and shut down by the composition root, beside the gRPC server on the same front end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "sluice/clock.h"
#include "sluice/status.h"

#include "server/auth.h"
#include "server/services.h"
#include "server/tls.h"

namespace sluice {

struct HttpServerOptions {
  std::string address = "127.0.0.1:8080";  // HOST:PORT; port 0 picks a free one
  int64_t max_body_bytes = 16 << 20;       // of a request; a larger one is answered with 413
  TlsFiles tls{};
  // Asked for everything but /health, /ready and the page. Outlives the server; null lets everybody in.
  const Authenticator* authenticator = nullptr;
  // Turns away what a browser carries here for a page of another site: where nobody is asked for a token, any page
  // could use the server in its reader's name.
  bool own_pages_only = false;
};

class HttpServer {
 public:
  // Listens at once, but /ready says no and answers are refused with 503 until set_ready(true). UNAVAILABLE naming the
  // address when it cannot be listened on, and load_tls()'s errors. `services` outlive the server.
  static Result<std::unique_ptr<HttpServer>> start(const HttpServerOptions& options, const Services& services);
  // As shutdown() without grace.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  const std::string& address() const;  // "HOST:PORT" with the real port
  int64_t num_connections() const;

  // What /ready says, and whether new answers are begun. Any thread.
  void set_ready(bool ready);

  // Makes ready what connections will see from the moment on in which the returned function is called, which cannot
  // fail. Only with TLS. The server outlives the function.
  Result<std::function<void()>> prepare_tls(const TlsMaterial& material);

  // Drains: nothing new is begun, open answers have `grace` to end, what is left then ends with 503, and the port
  // closes. True if nothing had to be cut off. Returns after all connections are gone, whatever the loop thread does.
  bool shutdown(Duration grace);

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
