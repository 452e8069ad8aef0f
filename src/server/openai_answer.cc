#include "server/openai_answer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "tokenizer/utf8.h"

namespace sluice {

namespace {

using nlohmann::json;

// OpenAI's stand-in for the logarithm of zero, which JSON cannot say.
constexpr float kNoLogprob = -9999.0f;

std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

const char* type_of(StatusCode code) {
  switch (code) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kUnimplemented:
    case StatusCode::kNotFound:
      return "invalid_request_error";
    case StatusCode::kResourceExhausted:
      return "rate_limit_error";
    case StatusCode::kUnauthenticated:
      return "authentication_error";
    case StatusCode::kPermissionDenied:
      return "permission_error";
    default:
      return "server_error";
  }
}

json code_of(const Status& status) {
  if (status.code() == StatusCode::kNotFound) return "model_not_found";
  if (status.code() == StatusCode::kInvalidArgument) return nullptr;
  std::string text = name(status.code());
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

// "messages[0].content" of "messages[0].content: must ...".
json param_of(const std::string& message) {
  const size_t colon = message.find(": ");
  if (colon == std::string::npos || colon == 0) return nullptr;
  const std::string_view field = std::string_view(message).substr(0, colon);
  const auto in_a_name = [](unsigned char c) {
    return std::isalnum(c) || c == '_' || c == '.' || c == '[' || c == ']';
  };
  if (!std::ranges::all_of(field, in_a_name) || field == "body") return nullptr;
  return std::string(field);
}

float finite(float logprob) { return std::isfinite(logprob) ? std::max(logprob, kNoLogprob) : kNoLogprob; }

size_t num_characters(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

// Other ends are told by an error.
json finish_reason(const GenerationDelta& delta, bool called_tools) {
  if (delta.finish == FinishReason::kLength) return "length";
  if (delta.finish == FinishReason::kStop) return called_tools ? "tool_calls" : "stop";
  return nullptr;
}

}  // namespace

json openai_error(const Status& status) {
  return {{"error",
           {{"message", status.message()},
            {"type", type_of(status.code())},
            {"param", param_of(status.message())},
            {"code", code_of(status)}}}};
}

int http_status(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return 200;
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kUnimplemented:
      return 400;
    case StatusCode::kUnauthenticated:
      return 401;
    case StatusCode::kPermissionDenied:
      return 403;
    case StatusCode::kNotFound:
      return 404;
    case StatusCode::kAlreadyExists:
      return 409;
    case StatusCode::kResourceExhausted:
      return 429;
    case StatusCode::kCancelled:
      return 499;
    case StatusCode::kUnavailable:
      return 503;
    case StatusCode::kDeadlineExceeded:
      return 504;
    case StatusCode::kInternal:
    case StatusCode::kDataLoss:
      return 500;
  }
  return 500;
}

std::string sse_event(const json& data) { return "data: " + dump(data) + "\n\n"; }

OpenAiAnswer::OpenAiAnswer(const OpenAiRequest& request, std::string id, int64_t created, const Services& services)
    : id_((request.chat ? "chatcmpl-" : "cmpl-") + std::move(id)),
      created_(created),
      model_(services.model.name),
      tokenizer_(services.tokenizer),
      chat_(request.chat),
      stream_(request.stream),
      include_usage_(request.include_usage),
      echo_(request.echo),
      logprobs_(request.logprobs),
      only_prompt_(request.only_prompt),
      prompt_text_(request.checked.prompt_text) {
  const Request& inner = request.checked.task.request;
  if (echo_) prompt_ = inner.prompt;
  choices_.resize(static_cast<size_t>(inner.num_choices), {AnswerParser(request.thinks, request.calls)});
}

json OpenAiAnswer::head(const char* object) const {
  return {{"id", id_}, {"object", object}, {"created", created_}, {"model", model_}};
}

std::string OpenAiAnswer::whole(AnswerStream::Batch batch) {
  take_prompt(batch);
  json body = head(chat_ ? "chat.completion" : "text_completion");
  body["choices"] = json::array();
  for (GenerationDelta& delta : batch.deltas)
    body["choices"].push_back(chat_ ? chat_choice(delta) : completion_choice(delta));
  body["usage"] = usage(*batch.end);
  return dump(body);
}

std::string OpenAiAnswer::events(AnswerStream::Batch batch) {
  take_prompt(batch);
  std::string out;
  for (GenerationDelta& delta : batch.deltas) {
    const bool began = choices_[static_cast<size_t>(delta.choice)].began;
    json choice = chat_ ? chat_choice(delta) : completion_choice(delta);
    // Nothing to see yet: half a character, or what may become a stop string or a tag.
    if (began && delta.finish == FinishReason::kNone && !logprobs_ &&
        (chat_ ? choice["delta"].empty() : choice["text"] == ""))
      continue;
    json event = head(chat_ ? "chat.completion.chunk" : "text_completion");
    event["choices"] = json::array({std::move(choice)});
    if (include_usage_) event["usage"] = nullptr;
    out += sse_event(event);
  }
  if (!batch.end) return out;
  if (!batch.end->status.ok()) out += sse_event(openai_error(batch.end->status));
  if (include_usage_ && batch.end->status.ok()) {
    json event = head(chat_ ? "chat.completion.chunk" : "text_completion");
    event["choices"] = json::array();
    event["usage"] = usage(*batch.end);
    out += sse_event(event);
  }
  return out += kSseDone;
}

void OpenAiAnswer::take_prompt(const AnswerStream::Batch& batch) {
  for (const GenerationDelta& delta : batch.deltas)
    if (!delta.prompt_logprobs.empty()) prompt_logprobs_ = delta.prompt_logprobs;
}

// ---- completions

json OpenAiAnswer::completion_choice(GenerationDelta& delta) {
  Choice& choice = choices_[static_cast<size_t>(delta.choice)];
  const bool first = !std::exchange(choice.began, true);
  if (only_prompt_) {
    delta.text.clear();
    delta.token_ids.clear();
    delta.logprobs.clear();
  }
  json logprobs = logprobs_ ? completion_logprobs(delta, choice, first && echo_) : json();
  return {{"index", delta.choice},
          {"text", first && echo_ ? prompt_text_ + delta.text : delta.text},
          {"logprobs", std::move(logprobs)},
          {"finish_reason", finish_reason(delta, false)}};
}

json OpenAiAnswer::completion_logprobs(const GenerationDelta& delta, Choice& choice, bool with_prompt) const {
  json out = {{"tokens", json::array()},
              {"token_logprobs", json::array()},
              {"top_logprobs", json::array()},
              {"text_offset", json::array()}};
  if (with_prompt)
    for (size_t i = 0; i < prompt_.size(); ++i)
      add_position(prompt_[i], i < prompt_logprobs_.size() ? prompt_logprobs_[i] : PositionLogprobs{}, &out, choice);
  for (size_t i = 0; i < delta.logprobs.size(); ++i) add_position(delta.token_ids[i], delta.logprobs[i], &out, choice);
  return out;
}

// One token's line in the four lists. Bytes that are no text by themselves are written as OpenAI does.
void OpenAiAnswer::add_position(TokenId token, const PositionLogprobs& position, json* out, Choice& choice) const {
  const auto text_of = [this](TokenId id) {
    const std::string_view bytes = tokenizer_ ? tokenizer_->token_bytes(id) : std::string_view();
    if (valid_utf8_prefix(bytes) == bytes.size()) return std::string(bytes);
    std::string escaped = "bytes:";
    for (const unsigned char byte : bytes) escaped += fmt::format("\\x{:02x}", byte);
    return escaped;
  };
  (*out)["tokens"].push_back(text_of(token));
  (*out)["text_offset"].push_back(choice.text_offset);
  if (tokenizer_) choice.text_offset += num_characters(tokenizer_->token_bytes(token));
  if (!position.chosen) {
    (*out)["token_logprobs"].push_back(nullptr);
    (*out)["top_logprobs"].push_back(nullptr);
    return;
  }
  (*out)["token_logprobs"].push_back(finite(position.chosen->logprob));
  json top = json::object();
  for (const TokenLogprob& candidate : position.top) top[text_of(candidate.token)] = finite(candidate.logprob);
  if (!position.top.empty()) top[text_of(token)] = finite(position.chosen->logprob);
  (*out)["top_logprobs"].push_back(std::move(top));
}

// ---- chats

json OpenAiAnswer::chat_choice(GenerationDelta& delta) {
  Choice& choice = choices_[static_cast<size_t>(delta.choice)];
  json out = {{"index", delta.choice}, {"logprobs", logprobs_ ? chat_logprobs(delta) : json()}};
  out[stream_ ? "delta" : "message"] = chat_delta(delta, choice);
  out["finish_reason"] = finish_reason(delta, choice.parser.num_calls() > 0);
  return out;
}

json OpenAiAnswer::chat_delta(GenerationDelta& delta, Choice& choice) {
  json out = json::object();
  const bool first = !std::exchange(choice.began, true);
  AnswerParts parts = choice.parser.push(delta.text);
  if (delta.finish != FinishReason::kNone) {
    AnswerParts rest = choice.parser.flush();
    parts.reasoning += rest.reasoning;
    parts.content += rest.content;
    std::ranges::move(rest.calls, std::back_inserter(parts.calls));
  }
  if (first) out["role"] = "assistant";
  if (!parts.reasoning.empty()) out["reasoning_content"] = std::move(parts.reasoning);
  // A whole message always says whether there was content; a stream's first event opens it.
  if (!parts.content.empty() || (first && parts.calls.empty())) out["content"] = std::move(parts.content);
  if (!stream_ && !out.contains("content")) out["content"] = nullptr;
  json calls = json::array();
  for (AnswerParts::CallPart& part : parts.calls) {
    // In a stream the pieces stay apart; in a whole message they are joined.
    const bool opens = !part.name.empty();
    if (!stream_ && !opens && !calls.empty()) {
      json& arguments = calls.back()["function"]["arguments"];
      arguments = arguments.get<std::string>() + part.arguments;
      continue;
    }
    json call = {{"function", {{"arguments", std::move(part.arguments)}}}};
    if (stream_) call["index"] = part.index;
    if (opens) {
      call["id"] = call_id(delta.choice, part.index);
      call["type"] = "function";
      call["function"]["name"] = std::move(part.name);
    }
    calls.push_back(std::move(call));
  }
  if (!calls.empty()) out["tool_calls"] = std::move(calls);
  return out;
}

json OpenAiAnswer::chat_token(const TokenLogprob& token) const {
  const std::string_view bytes = tokenizer_ ? tokenizer_->token_bytes(token.token) : std::string_view();
  json list = json::array();
  for (const unsigned char byte : bytes) list.push_back(byte);
  return {{"token", std::string(bytes)}, {"logprob", finite(token.logprob)}, {"bytes", std::move(list)}};
}

json OpenAiAnswer::chat_logprobs(const GenerationDelta& delta) const {
  json content = json::array();
  for (const PositionLogprobs& position : delta.logprobs) {
    if (!position.chosen) continue;
    json entry = chat_token(*position.chosen);
    entry["top_logprobs"] = json::array();
    for (const TokenLogprob& candidate : position.top) entry["top_logprobs"].push_back(chat_token(candidate));
    content.push_back(std::move(entry));
  }
  return {{"content", std::move(content)}, {"refusal", nullptr}};
}

std::string OpenAiAnswer::call_id(int32_t choice, int32_t call) const {
  return fmt::format("call_{}_{}_{}", id_.substr(id_.find('-') + 1), choice, call);
}

// ----

json OpenAiAnswer::usage(const GenerationEnd& end) const {
  const int32_t completion = only_prompt_ ? 0 : end.usage.completion_tokens;
  return {{"prompt_tokens", end.usage.prompt_tokens},
          {"completion_tokens", completion},
          {"total_tokens", end.usage.prompt_tokens + completion},
          {"prompt_tokens_details", {{"cached_tokens", end.usage.cached_prompt_tokens}}}};
}

}  // namespace sluice
