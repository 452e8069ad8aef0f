// What the HTTP front door answers, without sockets: who may enter, routes, bodies, status lines. Owns the readiness
// flag; the connections are http_server.cc's, which calls in from its threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "server/auth.h"
#include "server/fresh_numbers.h"
#include "server/openai_answer.h"
#include "server/services.h"

namespace sluice {

struct HttpRequest {
  std::string method;  // "GET"
  std::string target;  // "/v1/models?x=y"
  // Headers, empty where there are none.
  std::string authorization, host, origin;
  std::string request_id;    // x-request-id
  std::string trace_parent;  // traceparent
  bool http10 = false;
  bool keep_alive = true;
  std::string body;
  std::shared_ptr<const Principal> principal{};  // enter() fills it; null: nobody is asked who he is
};

// Whom the door lets in.
struct HttpGuard {
  // Asked for everything but /health, /ready and the page, which tell nothing of a client's; null lets everybody in.
  const Authenticator* authenticator = nullptr;
  // A browser carries requests of any site it shows to us, and where we ask for no token it needs no secret of ours.
  bool own_pages_only = false;    // `Origin`, where a request has one, is our own
  bool local_names_only = false;  // `Host` names this machine, and no site's name that points here (DNS rebinding)
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
  explicit HttpApi(Services services, HttpGuard guard = {});

  // While not ready, /ready says so and answers are refused with 503. Any thread.
  void set_ready(bool ready) { ready_ = ready; }

  // The first thing that happens to a request, before its body is read: 401 without a token that is known, 403 for a
  // page of another site.
  std::optional<HttpResponse> enter(HttpRequest* request) const;
  std::variant<HttpResponse, HttpGeneration> handle(const HttpRequest& request);
  // Frontend::submit() in the client's name.
  Result<std::shared_ptr<AnswerStream>> submit(const HttpRequest& request, GenerationTask task, AnswerReader& reader,
                                               Duration* retry_after);
  // The refusal of a generation, with a hint when to come back where that helps.
  HttpResponse refuse(const Status& status, Duration retry_after = {});

  Frontend& frontend() const { return services_.frontend; }

 private:
  Status check_site(const HttpRequest& request) const;
  HttpResponse get(std::string_view path);
  HttpResponse models(std::string_view path) const;
  HttpResponse tokenize(const std::string& body) const;
  HttpResponse detokenize(const std::string& body) const;
  std::variant<HttpResponse, HttpGeneration> generate(const HttpRequest& request, bool chat);

  const Services services_;
  const HttpGuard guard_;
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
