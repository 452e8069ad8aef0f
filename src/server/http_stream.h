// The bytes of one HTTP connection, with or without TLS: one type, so that the connection need not be a template, which
// would be compiled twice. Owns the socket; all of it is used on the socket's strand. At most one read and one write
// are in flight.
#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <memory>
#include <optional>
#include <utility>

#include "sluice/status.h"

#include "server/tls.h"

namespace sluice {

// What all connections share: the server's certificate and, where clients must show one, who signs theirs.
// INVALID_ARGUMENT where OpenSSL does not take what load_tls() let pass.
Result<std::unique_ptr<boost::asio::ssl::context>> make_tls_context(const TlsMaterial& material);

class HttpStream {
 public:
  using Socket = boost::asio::ip::tcp::socket;
  using Error = boost::system::error_code;
  using executor_type = Socket::executor_type;
  using lowest_layer_type = Socket::lowest_layer_type;

  // `tls` is needed here alone: what it gives lives on without it. Null: the bytes are the client's own.
  HttpStream(Socket socket, boost::asio::ssl::context* tls) : socket_(std::move(socket)) {
    if (tls) tls_.emplace(socket_, *tls);
  }

  executor_type get_executor() { return socket_.get_executor(); }
  Socket& socket() { return socket_; }

  template <typename Handler>
  void async_handshake(Handler&& handler) {
    if (tls_) return tls_->async_handshake(boost::asio::ssl::stream_base::server, std::forward<Handler>(handler));
    boost::asio::post(get_executor(), [handler = std::forward<Handler>(handler)]() mutable { handler(Error()); });
  }
  template <typename Buffers, typename Handler>
  void async_read_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) return tls_->async_read_some(buffers, std::forward<Handler>(handler));
    socket_.async_read_some(buffers, std::forward<Handler>(handler));
  }
  template <typename Buffers, typename Handler>
  void async_write_some(const Buffers& buffers, Handler&& handler) {
    if (tls_) return tls_->async_write_some(buffers, std::forward<Handler>(handler));
    socket_.async_write_some(buffers, std::forward<Handler>(handler));
  }
  // Tells the client that nothing follows, so that it can tell an end from a cut; with TLS waits for its answer.
  template <typename Handler>
  void async_end(Handler&& handler) {
    if (tls_) return tls_->async_shutdown(std::forward<Handler>(handler));
    boost::asio::post(get_executor(), [handler = std::forward<Handler>(handler)]() mutable { handler(Error()); });
  }
  // What comes now is thrown away, so nobody decrypts it.
  template <typename Buffers, typename Handler>
  void async_read_raw(const Buffers& buffers, Handler&& handler) {
    socket_.async_read_some(buffers, std::forward<Handler>(handler));
  }

 private:
  Socket socket_;
  std::optional<boost::asio::ssl::stream<Socket&>> tls_;
};

}  // namespace sluice
