#include "server/openai_request.h"

#include <charconv>
#include <utility>

#include "server/output_form.h"

namespace sluice {

namespace {

using json = Json;

// OpenAI's own default for completions. (Chats have none: they end by themselves, or at the model's default.)
constexpr int32_t kDefaultCompletionTokens = 16;

// The native protocol's names, where ours are others.
Status in_openai_words(const Status& status) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"text:", "prompt:"}, {"token_ids:", "prompt:"}, {"stop_strings", "stop"}, {"chat_format:", "model:"}};
  for (const auto& [ours, theirs] : kNames)
    if (status.message().starts_with(ours))
      return {status.code(), std::string(theirs) + status.message().substr(ours.size())};
  return status;
}

template <typename T, typename Setter>
Status copy(JsonBody& body, const char* name, const Setter& set) {
  if (!body.find(name)) return {};
  T value{};
  SLUICE_RETURN_IF_ERROR(body.read(name, &value));
  set(std::move(value));
  return {};
}

Status read_sampling(JsonBody& body, v1::Sampling* out) {
  SLUICE_RETURN_IF_ERROR(copy<float>(body, "temperature", [&](float x) { out->set_temperature(x); }));
  SLUICE_RETURN_IF_ERROR(copy<float>(body, "top_p", [&](float x) { out->set_top_p(x); }));
  SLUICE_RETURN_IF_ERROR(copy<float>(body, "min_p", [&](float x) { out->set_min_p(x); }));
  SLUICE_RETURN_IF_ERROR(copy<float>(body, "presence_penalty", [&](float x) { out->set_presence_penalty(x); }));
  SLUICE_RETURN_IF_ERROR(copy<float>(body, "frequency_penalty", [&](float x) { out->set_frequency_penalty(x); }));
  SLUICE_RETURN_IF_ERROR(copy<float>(body, "repetition_penalty", [&](float x) { out->set_repetition_penalty(x); }));
  // vLLM's "all of them" is -1.
  SLUICE_RETURN_IF_ERROR(copy<int32_t>(body, "top_k", [&](int32_t x) { out->set_top_k(x == -1 ? 0 : x); }));
  SLUICE_RETURN_IF_ERROR(copy<int64_t>(body, "seed", [&](int64_t x) { out->set_seed(x); }));
  const json* bias = body.find("logit_bias");
  if (!bias) return {};
  if (!bias->is_object()) return body.wrong("logit_bias", "an object from token ids to numbers");
  for (const auto& [key, value] : bias->items()) {
    uint32_t id = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc{} || end != key.data() + key.size() || !value.is_number())
      return invalid_argument("logit_bias: expected token ids with numbers, found \"{}\"", key.substr(0, 40));
    (*out->mutable_logit_bias())[id] = static_cast<float>(value.get<double>());
  }
  return {};
}

Status read_token_ids(JsonBody& body, const char* name, const json& values,
                      google::protobuf::RepeatedField<uint32_t>* out) {
  out->Reserve(static_cast<int>(values.size()));
  for (const json& value : values) {
    if (!value.is_number_unsigned() || !std::in_range<uint32_t>(value.get<uint64_t>()))
      return body.wrong(name, "token ids");
    out->Add(value.get<uint32_t>());
  }
  return {};
}

Status read_stopping(JsonBody& body, v1::Stopping* out) {
  SLUICE_RETURN_IF_ERROR(copy<int32_t>(body, "max_tokens", [&](int32_t x) { out->set_max_tokens(x); }));
  SLUICE_RETURN_IF_ERROR(copy<int32_t>(body, "min_tokens", [&](int32_t x) { out->set_min_tokens(x); }));
  SLUICE_RETURN_IF_ERROR(copy<bool>(body, "ignore_eos", [&](bool x) { out->set_ignore_eos(x); }));
  if (const json* ids = body.find("stop_token_ids")) {
    if (!ids->is_array()) return body.wrong("stop_token_ids", "an array of token ids");
    SLUICE_RETURN_IF_ERROR(read_token_ids(body, "stop_token_ids", *ids, out->mutable_stop_token_ids()));
  }
  const json* stop = body.find("stop");
  if (!stop) return {};
  if (stop->is_string()) {
    out->add_stop_strings(stop->get<std::string>());
    return {};
  }
  if (!stop->is_array()) return body.wrong("stop", "a string or an array of strings");
  for (const json& value : *stop) {
    if (!value.is_string()) return body.wrong("stop", "a string or an array of strings");
    out->add_stop_strings(value.get<std::string>());
  }
  return {};
}

// What both requests share.
template <typename RequestMessage>
Status read_common(JsonBody& body, RequestMessage* request, OpenAiRequest* out) {
  SLUICE_RETURN_IF_ERROR(copy<std::string>(body, "model", [&](std::string x) { request->set_model(std::move(x)); }));
  SLUICE_RETURN_IF_ERROR(read_sampling(body, request->mutable_sampling()));
  SLUICE_RETURN_IF_ERROR(read_stopping(body, request->mutable_stopping()));
  SLUICE_RETURN_IF_ERROR(copy<int32_t>(body, "n", [&](int32_t x) { request->set_n(x); }));
  SLUICE_RETURN_IF_ERROR(copy<int32_t>(body, "priority", [&](int32_t x) { request->set_priority(x); }));
  SLUICE_RETURN_IF_ERROR(
      copy<std::string>(body, "cache_salt", [&](std::string x) { request->set_cache_salt(std::move(x)); }));
  SLUICE_RETURN_IF_ERROR(body.read("stream", &out->stream));
  if (const json* options = body.find("stream_options")) {
    if (!options->is_object()) return body.wrong("stream_options", "an object");
    JsonBody inner(*options, "stream_options.");
    SLUICE_RETURN_IF_ERROR(inner.read("include_usage", &out->include_usage));
    inner.ignore({"include_obfuscation"});
    SLUICE_RETURN_IF_ERROR(inner.expect_nothing_else());
  }
  // Of interest to OpenAI's own service alone.
  body.ignore({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"});
  return {};
}

Status read_prompt(JsonBody& body, v1::GenerateRequest* request) {
  const json* prompt = body.find("prompt");
  if (!prompt) return invalid_argument("prompt: must be given");
  // One prompt in a list is one prompt.
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > 1)
      return {StatusCode::kUnimplemented,
              fmt::format("prompt: expected one prompt a request, found {}", prompt->size())};
    prompt = &prompt->front();
  }
  if (prompt->is_string()) {
    request->set_text(prompt->get<std::string>());
    return {};
  }
  if (!prompt->is_array()) return body.wrong("prompt", "a string or an array of token ids");
  return read_token_ids(body, "prompt", *prompt, request->mutable_token_ids()->mutable_ids());
}

Status refuse_unless(JsonBody& body, const char* name, const json& allowed, const char* why) {
  const json* value = body.find(name);
  if (!value || *value == allowed) return {};
  return {StatusCode::kUnimplemented, fmt::format("{}: {}", name, why)};
}

Status read_chat_kwargs(JsonBody& body, v1::ChatRequest* request, bool* thinking) {
  const json* kwargs = body.find("chat_template_kwargs");
  if (!kwargs) return {};
  if (!kwargs->is_object()) return body.wrong("chat_template_kwargs", "an object");
  JsonBody inner(*kwargs, "chat_template_kwargs.");
  SLUICE_RETURN_IF_ERROR(inner.read("thinking", thinking));
  SLUICE_RETURN_IF_ERROR(
      copy<std::string>(inner, "chat_format", [&](std::string x) { request->set_chat_format(std::move(x)); }));
  return inner.expect_nothing_else();
}

Status read_chat_logprobs(JsonBody& body, v1::ChatRequest* request, OpenAiRequest* out) {
  SLUICE_RETURN_IF_ERROR(body.read("logprobs", &out->logprobs));
  int32_t top = 0;
  SLUICE_RETURN_IF_ERROR(body.read("top_logprobs", &top));
  if (!out->logprobs) {
    if (top != 0) return invalid_argument("top_logprobs: needs \"logprobs\": true");
    return {};
  }
  if (top < 0 || top > kMaxLogprobs)
    return invalid_argument("top_logprobs: must be in [0, {}], got {}", kMaxLogprobs, top);
  request->mutable_output()->set_logprobs(top);
  return {};
}

// A choice that asks for calls, and strict tools, are forms too.
Status apply_tool_choice(const ToolRequest& tools, const Services& services, std::string* name, v1::Form* form) {
  if (!tools.calls) return {};
  // Between calls that may come and a form of the text beside them nothing is asked that both can keep.
  if (!name->empty()) return invalid_argument("tools: cannot be asked for together with {}", *name);
  if (!services.tokenizer) return {};  // check_chat() says so
  *name = *tools.calls == ToolCalls::kWellFormed ? "tools" : "tool_choice";
  form->set_structural_tag(tool_call_tag(tools.callable, *tools.calls, *services.tokenizer));
  return {};
}

Result<CheckedRequest> in_openai_words(Result<CheckedRequest> checked) {
  if (checked.ok()) return checked;
  return in_openai_words(checked.status());
}

}  // namespace

Result<OpenAiRequest> read_completion(std::string_view text, const Services& services, uint64_t fresh_seed) {
  SLUICE_ASSIGN_OR_RETURN(const json document, parse_body(text));
  JsonBody body(document);
  OpenAiRequest out;
  v1::GenerateRequest request;
  request.mutable_stopping()->set_max_tokens(kDefaultCompletionTokens);
  SLUICE_RETURN_IF_ERROR(read_common(body, &request, &out));
  SLUICE_RETURN_IF_ERROR(read_prompt(body, &request));
  SLUICE_RETURN_IF_ERROR(body.read("echo", &out.echo));
  SLUICE_RETURN_IF_ERROR(copy<bool>(body, "add_special_tokens", [&](bool add) { request.set_add_bos(add); }));
  SLUICE_RETURN_IF_ERROR(copy<int32_t>(body, "logprobs", [&](int32_t count) {
    out.logprobs = true;
    request.mutable_output()->set_logprobs(count);
    if (out.echo) request.mutable_output()->set_prompt_logprobs(count);
  }));
  if (out.echo && request.stopping().max_tokens() == 0) {
    out.only_prompt = true;
    request.mutable_stopping()->set_max_tokens(1);
  }
  request.mutable_output()->set_echo(out.echo);
  SLUICE_RETURN_IF_ERROR(refuse_unless(body, "suffix", "", "is not supported"));
  if (const json* best_of = body.find("best_of"); best_of && *best_of != json(request.has_n() ? request.n() : 1))
    return Status(StatusCode::kUnimplemented, "best_of: must equal n");
  SLUICE_ASSIGN_OR_RETURN(const std::string form, read_response_format(body, request.mutable_output()->mutable_form()));
  SLUICE_RETURN_IF_ERROR(body.expect_nothing_else());
  SLUICE_ASSIGN_OR_RETURN(out.checked, in_openai_words(name_form(check_generate(request, services, fresh_seed), form)));
  return out;
}

Result<OpenAiRequest> read_chat_completion(std::string_view text, const Services& services, uint64_t fresh_seed) {
  SLUICE_ASSIGN_OR_RETURN(const json document, parse_body(text));
  JsonBody body(document);
  OpenAiRequest out;
  out.chat = true;
  v1::ChatRequest request;
  SLUICE_RETURN_IF_ERROR(read_common(body, &request, &out));
  // The newer name wins, as it does there.
  SLUICE_RETURN_IF_ERROR(
      copy<int32_t>(body, "max_completion_tokens", [&](int32_t x) { request.mutable_stopping()->set_max_tokens(x); }));
  ChatOptions options;
  SLUICE_RETURN_IF_ERROR(read_chat_kwargs(body, &request, &options.thinking));
  SLUICE_RETURN_IF_ERROR(read_chat_logprobs(body, &request, &out));
  SLUICE_ASSIGN_OR_RETURN(std::string form, read_response_format(body, request.mutable_output()->mutable_form()));
  SLUICE_ASSIGN_OR_RETURN(ToolRequest tools, read_tools(body));
  SLUICE_RETURN_IF_ERROR(apply_tool_choice(tools, services, &form, request.mutable_output()->mutable_form()));
  options.tools = std::move(tools.tools);
  SLUICE_ASSIGN_OR_RETURN(const std::vector<ChatMessage> messages, read_messages(body));
  SLUICE_RETURN_IF_ERROR(body.expect_nothing_else());
  SLUICE_ASSIGN_OR_RETURN(
      out.checked, in_openai_words(name_form(check_chat(request, messages, options, services, fresh_seed), form)));
  SLUICE_ASSIGN_OR_RETURN(const ChatFormat format, chat_format_of(request, services));
  out.thinks = opens_thought(format, options.thinking);
  if (!options.tools.empty()) out.calls = call_layout(format);
  if (tools.calls && out.calls != CallLayout::kTags)
    return failed_precondition("{}: calls are held to a form in the layout of V3.1 alone, found that of {}", form, name(format));
  return out;
}

}  // namespace sluice
