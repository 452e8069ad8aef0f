#include "server/http_api.h"

#include <chrono>
#include <utility>

#include "server/chat_page.h"
#include "server/metrics_text.h"
#include "server/tls.h"
#include "tokenizer/utf8.h"

namespace sluice {

namespace {

using nlohmann::json;

int64_t seconds_since_1970() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

HttpResponse json_response(const json& body) {
  return {.body = body.dump(-1, ' ', false, json::error_handler_t::replace)};
}

HttpResponse text_response(int status, std::string text) {
  return {.status = status, .content_type = "text/plain; charset=utf-8", .body = std::move(text)};
}

std::string_view path_of(const HttpRequest& request) {
  return std::string_view(request.target).substr(0, request.target.find('?'));
}

// "localhost" stands for "localhost:80".
std::string with_port(const std::string& host) {
  const size_t colon = host.rfind(':');
  const bool has_port = colon != std::string::npos && host.find(']', colon) == std::string::npos;
  return has_port ? host : host + ":80";
}

HttpResponse not_allowed(const char* allowed) {
  HttpResponse response = error_response(invalid_argument("method: only {} is allowed here", allowed));
  response.status = 405;
  response.extra_headers = fmt::format("Allow: {}\r\n", allowed);
  return response;
}

HttpResponse no_such_path() {
  HttpResponse response = error_response(invalid_argument("path: nothing is served here"));
  response.status = 404;
  return response;
}

const char* reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 499:
      return "Client Closed Request";
    case 500:
      return "Internal Server Error";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Status";
  }
}

// What every answer begins with. A page of another origin gets nothing: there is no CORS header.
std::string head(int status, std::string_view content_type, const HttpRequest& request, bool keep_alive) {
  std::string text =
      fmt::format("HTTP/1.{} {} {}\r\nServer: sluice\r\nContent-Type: {}\r\nConnection: {}\r\n", request.http10 ? 0 : 1,
                  status, reason_phrase(status), content_type, keep_alive ? "keep-alive" : "close");
  if (check_request_id("x-request-id", request.request_id).ok() && !request.request_id.empty())
    text += fmt::format("X-Request-Id: {}\r\n", request.request_id);
  return text;
}

}  // namespace

HttpResponse error_response(const Status& status) {
  HttpResponse response = json_response(openai_error(status));
  response.status = http_status(status);
  return response;
}

std::string to_wire(const HttpResponse& response, const HttpRequest& request, bool keep_alive) {
  std::string text = head(response.status, response.content_type, request, keep_alive);
  text += response.extra_headers;
  text += fmt::format("Content-Length: {}\r\n\r\n", response.body.size());
  if (request.method != "HEAD") text += response.body;
  return text;
}

std::string stream_head(const HttpRequest& request, bool keep_alive) {
  return head(200, "text/event-stream; charset=utf-8", request, keep_alive) +
         "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n" +
         (request.http10 ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n");
}

std::string stream_chunk(std::string_view text, bool chunked) {
  if (text.empty() || !chunked) return std::string(text);
  return fmt::format("{:x}\r\n{}\r\n", text.size(), text);
}

HttpApi::HttpApi(Services services, HttpGuard guard)
    : services_(std::move(services)), guard_(guard), created_(seconds_since_1970()) {}

std::optional<HttpResponse> HttpApi::enter(HttpRequest* request) const {
  if (const Status status = check_site(*request); !status.ok()) {
    services_.frontend.metrics().rejected(Rejection::kForbidden);
    return error_response(status);
  }
  if (!guard_.authenticator) return std::nullopt;
  const std::string_view path = path_of(*request);
  if (path == "/" || path == "/health" || path == "/ready") return std::nullopt;
  auto principal = guard_.authenticator->authenticate(request->authorization);
  if (principal.ok()) {
    request->principal = std::move(*principal);
    return std::nullopt;
  }
  services_.frontend.metrics().rejected(Rejection::kUnauthenticated);
  HttpResponse response = error_response(principal.status());
  response.extra_headers = "WWW-Authenticate: Bearer\r\n";
  return response;
}

Status HttpApi::check_site(const HttpRequest& request) const {
  const auto refuse = [](const char* header, const std::string& value) {
    return Status(
        StatusCode::kPermissionDenied,
        fmt::format("{}: \"{}\" is not ours; if a proxy of yours sends it, ask for tokens (auth.tokens) or say "
                    "--insecure",
                    header, value.substr(0, valid_utf8_prefix(value.substr(0, 200)))));
  };
  // A client that names no host is no browser.
  if (guard_.local_names_only && !request.host.empty() && !is_loopback(with_port(request.host)))
    return refuse("host", request.host);
  if (!guard_.own_pages_only || request.origin.empty()) return {};
  const size_t scheme = request.origin.find("://");
  if (scheme == std::string::npos || request.origin.substr(scheme + 3) != request.host)
    return refuse("origin", request.origin);
  return {};
}

Result<std::shared_ptr<AnswerStream>> HttpApi::submit(const HttpRequest& request, GenerationTask task,
                                                      AnswerReader& reader, Duration* retry_after) {
  return submit_as(request.principal.get(), services_.frontend, std::move(task), reader, retry_after);
}

std::variant<HttpResponse, HttpGeneration> HttpApi::handle(const HttpRequest& request) {
  const std::string_view path = path_of(request);
  const bool gets = request.method == "GET" || request.method == "HEAD";
  if (path == "/v1/completions" || path == "/v1/chat/completions")
    return request.method == "POST" ? generate(request, path == "/v1/chat/completions") : not_allowed("POST");
  if (path == "/tokenize") return request.method == "POST" ? tokenize(request.body) : not_allowed("POST");
  if (path == "/detokenize") return request.method == "POST" ? detokenize(request.body) : not_allowed("POST");
  HttpResponse response = get(path);
  if (!gets && response.status != 404) return not_allowed("GET, HEAD");
  return response;
}

HttpResponse HttpApi::get(std::string_view path) {
  if (path == "/") return {.content_type = "text/html; charset=utf-8", .body = std::string(kChatPage)};
  if (path == "/health") return text_response(200, "ok\n");
  if (path == "/ready") return ready_ ? text_response(200, "ready\n") : text_response(503, "starting or draining\n");
  if (path == "/metrics")
    return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = render_metrics(services_)};
  if (path == "/v1/models" || path.starts_with("/v1/models/")) return models(path);
  return no_such_path();
}

HttpResponse HttpApi::models(std::string_view path) const {
  const ModelInfo& model = services_.model;
  const json entry = {{"id", model.name},
                      {"object", "model"},
                      {"created", created_},
                      {"owned_by", "sluice"},
                      {"max_model_len", model.context_length},
                      {"root", model.name},
                      {"parent", nullptr}};
  if (path == "/v1/models") return json_response({{"object", "list"}, {"data", json::array({entry})}});
  const std::string wanted(path.substr(std::string_view("/v1/models/").size()));
  if (const Status status = check_model(wanted, model); !status.ok()) return error_response(status);
  return json_response(entry);
}

HttpResponse HttpApi::tokenize(const std::string& text) const {
  const auto answer = [&]() -> Result<json> {
    SLUICE_ASSIGN_OR_RETURN(const Json document, parse_body(text));
    JsonBody body(document);
    v1::TokenizeRequest request;
    std::string model, prompt;
    bool add_bos = services_.tokenizer && services_.tokenizer->adds_bos();
    SLUICE_RETURN_IF_ERROR(body.read("model", &model));
    if (!body.find("prompt")) return invalid_argument("prompt: must be given");
    SLUICE_RETURN_IF_ERROR(body.read("prompt", &prompt));
    SLUICE_RETURN_IF_ERROR(body.read("add_special_tokens", &add_bos));
    SLUICE_RETURN_IF_ERROR(body.expect_nothing_else());
    request.set_model(model);
    request.set_text(prompt);
    request.set_add_bos(add_bos);
    SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids, check_tokenize(request, services_));
    return json{{"tokens", ids}, {"count", ids.size()}, {"max_model_len", services_.model.context_length}};
  }();
  return answer.ok() ? json_response(*answer) : error_response(answer.status());
}

HttpResponse HttpApi::detokenize(const std::string& text) const {
  const auto answer = [&]() -> Result<json> {
    SLUICE_ASSIGN_OR_RETURN(const Json document, parse_body(text));
    JsonBody body(document);
    v1::DetokenizeRequest request;
    std::string model;
    SLUICE_RETURN_IF_ERROR(body.read("model", &model));
    const Json* tokens = body.find("tokens");
    SLUICE_RETURN_IF_ERROR(body.expect_nothing_else());
    if (!tokens || !tokens->is_array()) return body.wrong("tokens", "an array of token ids");
    for (const Json& token : *tokens) {
      if (!token.is_number_unsigned() || !std::in_range<uint32_t>(token.get<uint64_t>()))
        return body.wrong("tokens", "an array of token ids");
      request.add_token_ids(token.get<uint32_t>());
    }
    request.set_model(model);
    Result<std::string> decoded = check_detokenize(request, services_);
    if (!decoded.ok()) return decoded.status();
    return json{{"prompt", *decoded}};
  }();
  return answer.ok() ? json_response(*answer) : error_response(answer.status());
}

std::variant<HttpResponse, HttpGeneration> HttpApi::generate(const HttpRequest& request, bool chat) {
  const auto read = [&]() -> Result<OpenAiRequest> {
    if (!ready_) return unavailable("the server is starting or draining");
    SLUICE_RETURN_IF_ERROR(check_request_id("x-request-id", request.request_id));
    const uint64_t seed = numbers_.next_seed();
    return chat ? read_chat_completion(request.body, services_, seed) : read_completion(request.body, services_, seed);
  };
  Result<OpenAiRequest> checked = read();
  if (!checked.ok()) {
    services_.frontend.metrics().rejected(checked.status());
    return refuse(checked.status());
  }
  std::string id = request.request_id.empty() ? fmt::format("{:016x}", numbers_.next()) : request.request_id;
  HttpGeneration generation;
  generation.answer = std::make_unique<OpenAiAnswer>(*checked, id, seconds_since_1970(), services_);
  generation.stream = checked->stream;
  generation.task = std::move(checked->checked.task);
  generation.task.client_id = std::move(id);
  generation.task.trace = parse_trace_parent(request.trace_parent);
  generation.task.delivery = checked->stream ? Delivery::kStream : Delivery::kWhole;
  return generation;
}

HttpResponse HttpApi::refuse(const Status& status, Duration retry_after) {
  HttpResponse response = error_response(status);
  if (response.status == 429 || response.status == 503) {
    // Retry-After knows whole seconds only; retry-after-ms is what OpenAI's clients read first.
    const uint64_t wait_ms = numbers_.next_retry_ms(retry_after);
    response.extra_headers = fmt::format("Retry-After: {}\r\nretry-after-ms: {}\r\n", (wait_ms + 999) / 1000, wait_ms);
  }
  return response;
}

}  // namespace sluice
