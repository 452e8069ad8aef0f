#include "server/http_connection.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <utility>

#include "sluice/log.h"

namespace sluice {

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Seconds = std::chrono::seconds;

constexpr Seconds kHandshakeTimeout{10};
// How long a client may think between two requests, the next one's head included; just above the 60 s after which
// common proxies drop idle connections themselves, so that it is they who close first.
constexpr Seconds kHeadTimeout{75};
// For a body of 16 MiB: 280 kB/s, a slow mobile link.
constexpr Seconds kBodyTimeout{60};
// For what we write to reach the client's buffers. (A stream's reader that is slow but alive: OutboxLimits.)
constexpr Seconds kWriteTimeout{30};
// A closed connection with unread input is reset, and the client may lose the answer that explains: so we read on for a
// while, but not for ever.
constexpr Seconds kLingerTimeout{2};
constexpr size_t kLingerBytes = 1 << 20;
// Of a head: twice what browsers and proxies send at most.
constexpr uint32_t kMaxHeadBytes = 16 << 10;
// Of pipelined requests that wait for the answer before them.
constexpr size_t kReadOnBytes = 4096, kMaxReadOnBytes = 64 << 10;

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

}  // namespace

HttpConnection::HttpConnection(Socket socket, boost::asio::ssl::context* tls, HttpApi& api, int64_t max_body_bytes,
                               std::function<void(HttpConnection*)> gone)
    : stream_(std::move(socket), tls),
      api_(api),
      max_body_bytes_(static_cast<uint64_t>(max_body_bytes)),
      gone_(std::move(gone)),
      timer_(stream_.get_executor()) {}

HttpConnection::~HttpConnection() { gone_(this); }

void HttpConnection::start() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    Error ignored;
    self->stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
    self->arm(kHandshakeTimeout);
    self->stream_.async_handshake([self](Error error) {
      if (self->phase_ != Phase::kReading) return;
      if (!error) return self->read_request();
      log_debug("http: no TLS handshake: {}", error.message());
      self->close();
    });
  });
}

void HttpConnection::finish() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    self->last_request_ = true;
    if (self->phase_ == Phase::kReading) self->close();
  });
}

void HttpConnection::abort() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    if (self->outbox_) self->lose_client();
    self->close();
  });
}

// ---- reading

void HttpConnection::read_request() {
  phase_ = Phase::kReading;
  parser_.emplace();
  parser_->header_limit(kMaxHeadBytes);
  parser_->body_limit(max_body_bytes_);
  arm(kHeadTimeout);
  http::async_read_header(stream_, buffer_, *parser_,
                          [self = shared_from_this()](Error error, size_t) { self->on_head(error); });
}

void HttpConnection::on_head(Error error) {
  if (phase_ != Phase::kReading) return;
  if (error) return answer_bad_request(error);
  take_head();
  if (const std::optional<HttpResponse> refusal = api_.enter(&request_)) {
    if (!parser_->is_done()) last_request_ = true;  // its body is not read
    parser_.reset();
    phase_ = Phase::kAnswering;
    return write(to_wire(*refusal, request_, !last_request_));
  }
  arm(kBodyTimeout);
  const auto expects = parser_->get()[http::field::expect];
  if (parser_->is_done() || !boost::beast::iequals(expects, "100-continue")) return read_body();
  asio::async_write(stream_, asio::buffer(kContinue), [self = shared_from_this()](Error failed, size_t) {
    if (failed) return self->close();
    self->read_body();
  });
}

void HttpConnection::take_head() {
  const auto& head = parser_->get();
  request_ = {.method = std::string(head.method_string()),
              .target = std::string(head.target()),
              .authorization = std::string(head[http::field::authorization]),
              .host = std::string(head[http::field::host]),
              .origin = std::string(head[http::field::origin]),
              .request_id = std::string(head["x-request-id"]),
              .trace_parent = std::string(head["traceparent"]),
              .http10 = head.version() == 10,
              .keep_alive = head.keep_alive()};
  if (!request_.keep_alive) last_request_ = true;
}

void HttpConnection::read_body() {
  http::async_read(stream_, buffer_, *parser_,
                   [self = shared_from_this()](Error error, size_t) { self->on_request(error); });
}

void HttpConnection::on_request(Error error) {
  if (phase_ != Phase::kReading) return;
  if (error) return answer_bad_request(error);
  request_.body = std::move(parser_->get().body());
  parser_.reset();
  phase_ = Phase::kAnswering;
  handle();
}

// The client may be gone, or talk something else. Whoever still listens is told why.
void HttpConnection::answer_bad_request(Error error) {
  const bool is_http = error.category() == http::make_error_code(http::error::bad_method).category();
  if (!is_http || error == http::error::end_of_stream || error == http::error::partial_message) return close();
  Status status = invalid_argument("request: is not valid HTTP ({})", error.message());
  int code = 400;
  if (error == http::error::body_limit) {
    status = invalid_argument("body: has more than {} bytes", max_body_bytes_);
    code = 413;
  } else if (error == http::error::header_limit) {
    status = invalid_argument("header: has more than {} bytes", kMaxHeadBytes);
    code = 431;
  }
  HttpResponse response = error_response(status);
  response.status = code;
  request_ = {};
  last_request_ = true;
  phase_ = Phase::kAnswering;
  write(to_wire(response, request_, false));
}

void HttpConnection::read_on() {
  if (reading_on_ || buffer_.size() >= kMaxReadOnBytes) return;
  reading_on_ = true;
  stream_.async_read_some(buffer_.prepare(kReadOnBytes), [self = shared_from_this()](Error error, size_t num_bytes) {
    self->on_read_on(error, num_bytes);
  });
}

void HttpConnection::on_read_on(Error error, size_t num_bytes) {
  reading_on_ = false;
  if (error == asio::error::operation_aborted && phase_ == Phase::kReading) return read_request();
  if (error) {
    if (phase_ == Phase::kAnswering) lose_client();
    return close();
  }
  switch (phase_) {
    case Phase::kReading:
      buffer_.commit(num_bytes);
      return read_request();
    case Phase::kAnswering:
      buffer_.commit(num_bytes);
      return read_on();
    case Phase::kLingering:
      return said_end_ ? drop_rest() : void();
    case Phase::kClosed:
      return;
  }
}

// ---- answering

void HttpConnection::handle() {
  auto answer = api_.handle(request_);
  request_.body = {};
  if (auto* generation = std::get_if<HttpGeneration>(&answer)) return begin(std::move(*generation));
  write(to_wire(std::get<HttpResponse>(answer), request_, !last_request_));
}

void HttpConnection::begin(HttpGeneration generation) {
  answer_ = std::move(generation.answer);
  streams_ = generation.stream;
  head_sent_ = ended_ = client_lost_ = false;
  Duration wait{};
  Result<std::shared_ptr<AnswerStream>> stream = api_.submit(request_, std::move(generation.task), *this, &wait);
  if (!stream.ok()) {
    answer_.reset();
    return write(to_wire(api_.refuse(stream.status(), wait), request_, !last_request_));
  }
  outbox_ = std::move(*stream);
  self_ = shared_from_this();
  ++timer_epoch_;  // the engine takes as long as it takes
  read_on();
  pump();
}

void HttpConnection::on_ready() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] { self->pump(); });
}

void HttpConnection::on_stalled() { abort(); }

void HttpConnection::pump() {
  while (true) {
    AnswerStream::Batch batch = outbox_->take();
    if (batch.empty()) return;
    ended_ = batch.end.has_value();
    std::string text = client_lost_ ? std::string() : render(std::move(batch));
    if (!text.empty()) return write(std::move(text));
    if (ended_) return end_answer();
  }
}

// What of it goes over the wire; nothing while there is nothing to see.
std::string HttpConnection::render(AnswerStream::Batch batch) {
  const bool failed = batch.end && !batch.end->status.ok();
  const bool has_tokens = std::ranges::any_of(batch.deltas, [](const auto& delta) { return !delta.token_ids.empty(); });
  // As long as nothing was sent, an error can still be the answer's status.
  if (failed && (!streams_ || (!head_sent_ && !has_tokens)))
    return to_wire(api_.refuse(batch.end->status), request_, !last_request_);
  if (!streams_) return to_wire({.body = answer_->whole(std::move(batch))}, request_, !last_request_);
  if (request_.http10) last_request_ = true;
  const std::string events = answer_->events(std::move(batch));
  std::string text = std::exchange(head_sent_, true) ? "" : stream_head(request_, !last_request_);
  text += stream_chunk(events, !request_.http10);
  if (ended_ && !request_.http10) text += kLastChunk;
  return text;
}

void HttpConnection::write(std::string text) {
  out_ = std::move(text);
  writing_ = true;
  arm(kWriteTimeout);
  asio::async_write(stream_, asio::buffer(out_),
                    [self = shared_from_this()](Error error, size_t) { self->on_written(error); });
}

void HttpConnection::on_written(Error error) {
  writing_ = false;
  ++timer_epoch_;
  if (outbox_) {
    if (error) lose_client();
    return ended_ ? end_answer() : pump();
  }
  if (error) return close();
  next_request();
}

// The loop hears of it within a step; the end still comes through pump().
void HttpConnection::lose_client() {
  if (outbox_ && !std::exchange(client_lost_, true)) outbox_->cancel();
}

void HttpConnection::end_answer() {
  outbox_.reset();
  answer_.reset();
  const std::shared_ptr<HttpConnection> keep = std::exchange(self_, nullptr);
  if (client_lost_) return close();
  next_request();
}

// ---- the end

void HttpConnection::next_request() {
  if (phase_ == Phase::kClosed) return;
  if (last_request_) return linger();
  phase_ = Phase::kReading;
  if (!reading_on_) return read_request();
  // What read_on() will bring is the beginning of the next request; or it brought that already and reads on in vain.
  arm(kHeadTimeout);
  Error ignored;
  // (Under TLS the cancel misses a read between two parts of a record; that record's rest ends it then.)
  if (buffer_.size() > 0) stream_.socket().cancel(ignored);
}

void HttpConnection::linger() {
  phase_ = Phase::kLingering;
  buffer_.clear();
  arm(kLingerTimeout);
  stream_.async_end([self = shared_from_this()](Error) {
    if (self->phase_ != Phase::kLingering) return;
    self->said_end_ = true;
    Error ignored;
    self->stream_.socket().shutdown(Socket::shutdown_send, ignored);
    self->drop_rest();
  });
}

void HttpConnection::drop_rest() {
  if (reading_on_) return;  // on_read_on() comes back here
  stream_.async_read_raw(buffer_.prepare(kReadOnBytes), [self = shared_from_this()](Error error, size_t num_bytes) {
    self->on_dropped(error, num_bytes);
  });
}

void HttpConnection::on_dropped(Error error, size_t num_bytes) {
  lingered_bytes_ += num_bytes;
  if (error || lingered_bytes_ > kLingerBytes) return close();
  drop_rest();
}

void HttpConnection::close() {
  phase_ = Phase::kClosed;
  ++timer_epoch_;
  timer_.cancel();
  Error ignored;
  stream_.socket().close(ignored);
}

void HttpConnection::arm(Seconds timeout) {
  const uint64_t epoch = ++timer_epoch_;
  timer_.expires_after(timeout);
  timer_.async_wait([self = shared_from_this(), epoch](Error error) {
    if (error || epoch != self->timer_epoch_) return;
    log_debug("http: a connection that makes no progress is closed");
    self->lose_client();
    self->close();
  });
}

}  // namespace sluice
