// What the HTTP front door answers, without sockets: routes, bodies, status lines. Owns the readiness flag; the
// connections are http_server.cc's, which calls in from its threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "server/fresh_numbers.h"
#include "server/openai_answer.h"
#include "server/services.h"

namespace sluice {

struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // "/v1/models?x=y"
  std::string body;
  std::string request_id;  // header x-request-id, or empty
  bool http10 = false;
  bool keep_alive = true;
};

// A whole answer as it goes over the wire.
struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::string extra_headers;  // whole lines, each with its CRLF
};

// An answer that the engine must give first.
struct HttpGeneration {
  GenerationTask task;
  std::unique_ptr<OpenAiAnswer> answer;
  bool stream = false;
};

class HttpApi {
 public:
  explicit HttpApi(Services services);

  // While not ready, /ready says so and answers are refused with 503. Any thread.
  void set_ready(bool ready) { ready_ = ready; }

  std::variant<HttpResponse, HttpGeneration> handle(const HttpRequest& request);
  // The refusal of a generation, with a hint when to come back where that helps.
  HttpResponse refuse(const Status& status);

  Frontend& frontend() const { return services_.frontend; }

 private:
  HttpResponse get(std::string_view path);
  HttpResponse models(std::string_view path) const;
  HttpResponse tokenize(const std::string& body) const;
  HttpResponse detokenize(const std::string& body) const;
  std::variant<HttpResponse, HttpGeneration> generate(const HttpRequest& request, bool chat);

  const Services services_;
  const int64_t created_;  // of the model for clients: when we started
  std::atomic<bool> ready_{false};
  FreshNumbers numbers_;
};

HttpResponse error_response(const Status& status);

// "HTTP/1.1 200 OK\r\n...\r\n\r\n" and, unless the method was HEAD, the body.
std::string to_wire(const HttpResponse& response, const HttpRequest& request, bool keep_alive);
// The head of an answer of unknown length: chunked, or for HTTP/1.0 until the connection ends.
std::string stream_head(const HttpRequest& request, bool keep_alive);
// One chunk of it; nothing for an empty text.
std::string stream_chunk(std::string_view text, bool chunked);
constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace sluice
