// One HTTP connection: reads a request, answers it, reads the next. Owns socket, buffers and the answer in the making.
// All of it runs on the connection's strand; only on_ready() and on_stalled() come from the detokeniser thread. This
// and http_connection.cc are all of the tree that sees Boost.Beast, because it takes seconds to compile. Who is not let
// in is turned away after the head: strangers cannot make us keep their bodies.
//
//   read head, body --> HttpApi --> response ------------------------- write --> next request, or linger and close
//                          |                                             ^
//                          +--> generation: submit, take, write, take, --+   meanwhile the socket is read on, into the
//                                                                            buffer: a client that is gone is noticed,
//                                                                            and a pipelined request waits there
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "server/answer_stream.h"
#include "server/http_api.h"
#include "server/http_stream.h"

namespace sluice {

class HttpConnection final : public AnswerReader, public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket = HttpStream::Socket;

  // `api` outlives the connection; `tls` is needed by this alone and may be null. `gone` is called once, when it is destroyed.
  HttpConnection(Socket socket, boost::asio::ssl::context* tls, HttpApi& api, int64_t max_body_bytes,
                 std::function<void(HttpConnection*)> gone);
  ~HttpConnection() override;

  void start();
  // The server stops: who waits for a request is closed, an answer is still written, and no request after it is read.
  void finish();
  // At once, whatever is going on; an open answer is cancelled.
  void abort();

  void on_ready() override;
  void on_stalled() override;

 private:
  enum class Phase : uint8_t { kReading, kAnswering, kLingering, kClosed };
  using Error = boost::system::error_code;

  // reading
  void read_request();
  void on_head(Error error);
  void take_head();
  void read_body();
  void on_request(Error error);
  void answer_bad_request(Error error);
  void read_on();
  void on_read_on(Error error, size_t num_bytes);

  // answering
  void handle();
  void begin(HttpGeneration generation);
  void pump();
  std::string render(AnswerStream::Batch batch);
  void write(std::string text);
  void on_written(Error error);
  void end_answer();
  void lose_client();

  // the end
  void next_request();
  void linger();
  void drop_rest();
  void on_dropped(Error error, size_t num_bytes);
  void close();
  void arm(std::chrono::seconds timeout);

  HttpStream stream_;
  HttpApi& api_;
  const uint64_t max_body_bytes_;
  const std::function<void(HttpConnection*)> gone_;
  boost::asio::steady_timer timer_;
  uint64_t timer_epoch_ = 0;  // an expiry that was queued before the timer was set anew means nothing

  Phase phase_ = Phase::kReading;
  bool reading_on_ = false;  // a read_on() is in flight
  bool writing_ = false;
  bool last_request_ = false;  // none is read after the answer
  bool said_end_ = false;      // lingering, and the client knows
  size_t lingered_bytes_ = 0;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  HttpRequest request_;
  std::string out_;  // in flight

  // The answer in the making.
  std::shared_ptr<HttpConnection> self_;  // the stream's reader lives until it took the end
  std::shared_ptr<AnswerStream> outbox_;
  std::unique_ptr<OpenAiAnswer> answer_;
  bool streams_ = false;
  bool head_sent_ = false;
  bool ended_ = false;
  bool client_lost_ = false;
};

}  // namespace sluice
