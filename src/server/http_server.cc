#include "server/http_server.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <functional>
#include <future>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "sluice/log.h"

#include "server/address.h"
#include "server/http_connection.h"

namespace sluice {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

// While one tokenises a long prompt the other serves the rest.
constexpr int kThreads = 2;
// Beyond this a connection is closed as soon as it comes: each holds a few kilobytes, and some file descriptors must be
// left for everybody else.
constexpr size_t kMaxConnections = 8192;
// When there are no more file descriptors: what closes meanwhile makes room.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);
// For the last bytes of answers to reach their readers at shutdown, as for gRPC.
constexpr auto kFlushTime = std::chrono::seconds(1);
constexpr auto kShutdownTick = std::chrono::milliseconds(5);

}  // namespace

struct HttpServer::Impl {
  Impl(const Services& services, const HttpServerOptions& options)
      : api(services, {.authenticator = options.authenticator,
                       .own_pages_only = options.own_pages_only,
                       .local_names_only = options.own_pages_only && is_loopback(options.address)}),
        max_body_bytes(options.max_body_bytes) {}

  Status listen(const HostPort& wanted);
  void accept();
  void on_accepted(boost::system::error_code error, tcp::socket socket);
  // Calls `action` for all that are alive.
  template <typename Action>
  void for_each(const Action& action);
  Result<std::function<void()>> prepare_tls(const TlsMaterial& material) {
    SLUICE_ASSIGN_OR_RETURN(std::shared_ptr<asio::ssl::context> fresh, make_tls_context(material));
    return std::function<void()>([this, fresh] {
      std::lock_guard lock(mutex);
      tls = fresh;
    });
  }
  std::shared_ptr<asio::ssl::context> current_tls() const {
    std::lock_guard lock(mutex);
    return tls;
  }
  size_t num_connections() const {
    std::lock_guard lock(mutex);
    return connections.size();
  }

  HttpApi api;
  const int64_t max_body_bytes;
  std::shared_ptr<asio::ssl::context> tls;  // null: none; what it gave a connection lives on without it
  std::string address;
  int port = 0;
  asio::io_context io{kThreads};
  // A connection whose answer is being computed waits for nothing of `io`: without this the threads would go home as
  // soon as the acceptor is closed, and nobody would hear the answer's end.
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
  tcp::acceptor acceptor{asio::make_strand(io)};
  asio::steady_timer accept_pause{acceptor.get_executor()};
  std::vector<std::thread> threads;
  bool stopped = false;

  mutable std::mutex mutex;
  std::unordered_set<HttpConnection*> connections;
};

Status HttpServer::Impl::listen(const HostPort& wanted) {
  std::string host = wanted.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  boost::system::error_code error;
  tcp::resolver resolver(io);
  const auto found = resolver.resolve(host, std::to_string(wanted.port), tcp::resolver::passive, error);
  const auto fail = [&] {
    return unavailable("http: cannot listen on \"{}:{}\": {}", wanted.host, wanted.port, error.message());
  };
  if (error) return fail();
  // The first that this machine has; if there is none, the first one's reason is told.
  boost::system::error_code first_error;
  for (const tcp::endpoint endpoint : found) {
    error = {};
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
    if (!error) break;
    if (!first_error) first_error = error;
    boost::system::error_code ignored;
    acceptor.close(ignored);
  }
  if (!acceptor.is_open()) {
    error = first_error;
    return fail();
  }
  port = acceptor.local_endpoint().port();
  address = fmt::format("{}:{}", wanted.host, port);
  return {};
}

void HttpServer::Impl::accept() {
  acceptor.async_accept(asio::make_strand(io), [this](boost::system::error_code error, tcp::socket socket) {
    on_accepted(error, std::move(socket));
  });
}

void HttpServer::Impl::on_accepted(boost::system::error_code error, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (error) {
    log_warn("http: cannot accept a connection: {}", error.message());
    accept_pause.expires_after(kAcceptPause);
    accept_pause.async_wait([this](boost::system::error_code) {
      if (acceptor.is_open()) accept();
    });
    return;
  }
  if (num_connections() >= kMaxConnections) {
    log_warn("http: a connection is refused, {} are open", kMaxConnections);
  } else {
    const std::shared_ptr<asio::ssl::context> context = current_tls();
    const auto connection = std::make_shared<HttpConnection>(std::move(socket), context.get(), api, max_body_bytes,
                                                             [this](HttpConnection* gone) {
                                                               std::lock_guard lock(mutex);
                                                               connections.erase(gone);
                                                             });
    {
      std::lock_guard lock(mutex);
      connections.insert(connection.get());
    }
    connection->start();
  }
  accept();
}

template <typename Action>
void HttpServer::Impl::for_each(const Action& action) {
  std::vector<std::shared_ptr<HttpConnection>> alive;
  {
    std::lock_guard lock(mutex);
    for (HttpConnection* connection : connections)
      if (auto held = connection->weak_from_this().lock()) alive.push_back(std::move(held));
  }
  for (const auto& connection : alive) action(*connection);
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(const HttpServerOptions& options, const Services& services) {
  SLUICE_ASSIGN_OR_RETURN(const HostPort wanted, parse_host_port("http", options.address));
  auto impl = std::make_unique<Impl>(services, options);
  if (!options.tls.empty()) {
    SLUICE_ASSIGN_OR_RETURN(const TlsMaterial material, load_tls(options.tls));
    SLUICE_ASSIGN_OR_RETURN(const std::function<void()> take, impl->prepare_tls(material));
    take();
  }
  SLUICE_RETURN_IF_ERROR(impl->listen(wanted));
  impl->accept();
  for (int i = 0; i < kThreads; ++i) impl->threads.emplace_back([raw = impl.get()] { raw->io.run(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() { shutdown(Duration{}); }

int HttpServer::port() const { return impl_->port; }

const std::string& HttpServer::address() const { return impl_->address; }

int64_t HttpServer::num_connections() const { return static_cast<int64_t>(impl_->num_connections()); }

Result<std::function<void()>> HttpServer::prepare_tls(const TlsMaterial& material) {
  return impl_->prepare_tls(material);
}

void HttpServer::set_ready(bool ready) { impl_->api.set_ready(ready); }

bool HttpServer::shutdown(Duration grace) {
  if (std::exchange(impl_->stopped, true)) return true;
  set_ready(false);
  Frontend& frontend = impl_->api.frontend();
  const auto end = std::chrono::steady_clock::now() + grace;
  while (frontend.num_open() > 0 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(kShutdownTick);
  const bool complete = frontend.num_open() == 0;
  std::promise<void> closed;
  asio::post(impl_->acceptor.get_executor(), [raw = impl_.get(), &closed] {
    boost::system::error_code ignored;
    raw->acceptor.close(ignored);
    raw->accept_pause.cancel();
    closed.set_value();
  });
  closed.get_future().wait();  // no connection is added after this
  const auto last = std::chrono::steady_clock::now() + kFlushTime;
  bool aborted = false;
  while (impl_->num_connections() > 0) {
    // Again and again, because a request may have passed the readiness check just before it fell.
    frontend.fail_all(unavailable("the server is shutting down"));
    impl_->for_each([](HttpConnection& connection) { connection.finish(); });
    if (!aborted && std::chrono::steady_clock::now() >= last) {
      impl_->for_each([](HttpConnection& connection) { connection.abort(); });
      aborted = true;
    }
    std::this_thread::sleep_for(kShutdownTick);
  }
  impl_->work.reset();
  for (std::thread& thread : impl_->threads) thread.join();
  return complete;
}

}  // namespace sluice
