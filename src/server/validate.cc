#include "server/validate.h"

#include <algorithm>
#include <utility>

#include "chat/answer_parser.h"
#include "server/output_form.h"
#include "tokenizer/utf8.h"

namespace sluice {

namespace {

// The parser refuses invalid UTF-8 already; this also guards requests that were built in this process.
Status check_utf8(const std::string& field, std::string_view text) {
  if (valid_utf8_prefix(text) == text.size()) return {};
  return invalid_argument("{}: is not valid UTF-8", field);
}

Status check_range(const char* field, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return {};
  return invalid_argument("{}: must be in [{}, {}], got {}", field, min, max, value);
}

Status check_length(const char* field, size_t bytes, int32_t max) {
  if (std::cmp_less_equal(bytes, max)) return {};
  return invalid_argument("{}: must have at most {} bytes, got {}", field, max, bytes);
}

Result<TokenId> token_of(const char* field, uint32_t id, int32_t vocab_size) {
  if (std::cmp_less(id, vocab_size)) return static_cast<TokenId>(id);
  return invalid_argument("{}: token id must be in [0, {}), got {}", field, vocab_size, id);
}

template <typename Ids>
Result<std::vector<TokenId>> tokens_of(const char* field, const Ids& ids, int32_t vocab_size) {
  std::vector<TokenId> tokens;
  tokens.reserve(static_cast<size_t>(ids.size()));
  for (const uint32_t id : ids) {
    SLUICE_ASSIGN_OR_RETURN(const TokenId token, token_of(field, id, vocab_size));
    tokens.push_back(token);
  }
  return tokens;
}

Result<SamplingParams> read_sampling(const v1::Sampling& in, const ModelInfo& model, uint64_t fresh_seed) {
  SamplingParams out = model.default_sampling;
  if (in.has_temperature()) out.temperature = in.temperature();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_top_p()) out.top_p = in.top_p();
  if (in.has_min_p()) out.min_p = in.min_p();
  if (in.has_repetition_penalty()) out.repetition_penalty = in.repetition_penalty();
  if (in.has_presence_penalty()) out.presence_penalty = in.presence_penalty();
  if (in.has_frequency_penalty()) out.frequency_penalty = in.frequency_penalty();
  for (const auto& [id, bias] : in.logit_bias()) {
    SLUICE_ASSIGN_OR_RETURN(const TokenId token, token_of("logit_bias", id, model.vocab_size));
    out.logit_bias[token] = bias;
  }
  out.seed = in.has_seed() ? static_cast<uint64_t>(in.seed()) : fresh_seed;
  SLUICE_RETURN_IF_ERROR(validate(out, model.vocab_size));
  return out;
}

Result<StopParams> read_stopping(const v1::Stopping& in, const ModelInfo& model) {
  StopParams out;
  // A client that asks for more than the default at least gets no contradiction with the default of the other field.
  out.max_tokens = in.has_max_tokens() ? in.max_tokens() : std::max(model.default_max_tokens, in.min_tokens());
  out.min_tokens = in.min_tokens();
  out.ignore_eos = in.ignore_eos();
  SLUICE_RETURN_IF_ERROR(check_range("stop_token_ids: count", in.stop_token_ids_size(), 0, kMaxStopTokenIds));
  SLUICE_ASSIGN_OR_RETURN(out.stop_token_ids, tokens_of("stop_token_ids", in.stop_token_ids(), model.vocab_size));
  SLUICE_RETURN_IF_ERROR(validate(out, model.vocab_size));
  return out;
}

Result<std::vector<std::string>> read_stop_strings(const v1::Stopping& in, const Services& services) {
  SLUICE_RETURN_IF_ERROR(check_range("stop_strings: count", in.stop_strings_size(), 0, kMaxStopStrings));
  if (in.stop_strings_size() > 0 && !services.tokenizer)
    return failed_precondition("stop_strings: the model has no tokenizer; use stop_token_ids");
  std::vector<std::string> stops;
  for (int i = 0; i < in.stop_strings_size(); ++i) {
    const std::string& text = in.stop_strings(i);
    const std::string field = fmt::format("stop_strings[{}]", i);
    if (text.empty() || std::cmp_greater(text.size(), kMaxStopStringBytes))
      return invalid_argument("{}: must have 1 to {} bytes, got {}", field, kMaxStopStringBytes, text.size());
    SLUICE_RETURN_IF_ERROR(check_utf8(field, text));
    stops.push_back(text);
  }
  return stops;
}

// The fields that both requests have under the same names.
template <typename RequestMessage>
Result<CheckedRequest> read_common(const RequestMessage& in, const Services& services, uint64_t fresh_seed) {
  const ModelInfo& model = services.model;
  SLUICE_RETURN_IF_ERROR(check_model(in.model(), model));
  CheckedRequest out;
  Request& request = out.task.request;
  SLUICE_ASSIGN_OR_RETURN(request.sampling, read_sampling(in.sampling(), model, fresh_seed));
  SLUICE_ASSIGN_OR_RETURN(request.stop, read_stopping(in.stopping(), model));
  SLUICE_ASSIGN_OR_RETURN(out.task.stop_strings, read_stop_strings(in.stopping(), services));

  const v1::Output& output = in.output();
  if (output.has_logprobs()) request.num_logprobs = output.logprobs();
  if (output.has_prompt_logprobs()) request.num_prompt_logprobs = output.prompt_logprobs();
  if (output.has_logprobs()) SLUICE_RETURN_IF_ERROR(check_range("logprobs", request.num_logprobs, 0, kMaxLogprobs));
  if (output.has_prompt_logprobs())
    SLUICE_RETURN_IF_ERROR(check_range("prompt_logprobs", request.num_prompt_logprobs, 0, kMaxLogprobs));
  out.echo = output.echo();
  SLUICE_ASSIGN_OR_RETURN(out.task.form, check_form(output.form(), services));

  if (in.has_n()) request.num_choices = in.n();
  SLUICE_RETURN_IF_ERROR(check_range("n", request.num_choices, 1, kMaxChoices));
  request.priority = in.priority();
  SLUICE_RETURN_IF_ERROR(check_length("cache_salt", in.cache_salt().size(), kMaxCacheSaltBytes));
  request.cache_salt = in.cache_salt();
  SLUICE_RETURN_IF_ERROR(check_request_id("request_id", in.request_id()));
  out.task.client_id = in.request_id();
  return out;
}

Status check_prompt_length(const char* field, size_t num_tokens, const ModelInfo& model) {
  if (num_tokens == 0) return invalid_argument("{}: must not be empty", field);
  if (std::cmp_less(num_tokens, model.context_length)) return {};
  return invalid_argument("{}: has {} tokens, but the context holds {}, the answer included", field, num_tokens,
                          model.context_length);
}

Status no_tokenizer(const char* field, const ModelInfo& model) {
  return failed_precondition("{}: the model \"{}\" has no tokenizer; send token ids", field, model.name);
}

// Of either message with `text`, `add_bos` and `parse_special`.
template <typename RequestMessage>
Result<std::vector<TokenId>> encode_text(const RequestMessage& in, const Services& services) {
  if (!services.tokenizer) return no_tokenizer("text", services.model);
  SLUICE_RETURN_IF_ERROR(check_utf8("text", in.text()));
  const bool add_bos = in.has_add_bos() ? in.add_bos() : services.tokenizer->adds_bos();
  const bool parse = !in.has_parse_special() || in.parse_special();
  return services.tokenizer->encode(in.text(), add_bos, parse ? SpecialTokens::kParse : SpecialTokens::kAsText);
}

Result<ChatRole> role_of(int index, v1::Role role) {
  switch (role) {
    case v1::ROLE_SYSTEM:
      return ChatRole::kSystem;
    case v1::ROLE_USER:
      return ChatRole::kUser;
    case v1::ROLE_ASSISTANT:
      return ChatRole::kAssistant;
    default:
      return invalid_argument("messages[{}].role: must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT, got {}", index,
                              static_cast<int>(role));
  }
}

}  // namespace

Status check_model(const std::string& model, const ModelInfo& served) {
  if (model.empty() || model == served.name) return {};
  return not_found("model: \"{}\" is not served here; \"{}\" is",
                   model.substr(0, valid_utf8_prefix(model.substr(0, 200))), served.name);
}

Status check_request_id(const char* field, std::string_view id) {
  SLUICE_RETURN_IF_ERROR(check_length(field, id.size(), kMaxRequestIdBytes));
  if (std::ranges::all_of(id, [](char c) { return c > ' ' && c <= '~'; })) return {};
  return invalid_argument("{}: must be printable ASCII without spaces", field);
}

Result<CheckedRequest> check_generate(const v1::GenerateRequest& request, const Services& services,
                                      uint64_t fresh_seed) {
  SLUICE_ASSIGN_OR_RETURN(CheckedRequest out, read_common(request, services, fresh_seed));
  std::vector<TokenId>& prompt = out.task.request.prompt;
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText: {
      // A prompt of nothing but a begin-of-sequence token is asked for with token_ids; an empty text is a mistake.
      if (request.text().empty()) return invalid_argument("text: must not be empty");
      SLUICE_ASSIGN_OR_RETURN(prompt, encode_text(request, services));
      SLUICE_RETURN_IF_ERROR(check_prompt_length("text", prompt.size(), services.model));
      if (out.echo) out.prompt_text = request.text();
      return out;
    }
    case v1::GenerateRequest::kTokenIds: {
      SLUICE_RETURN_IF_ERROR(
          check_prompt_length("token_ids", static_cast<size_t>(request.token_ids().ids_size()), services.model));
      SLUICE_ASSIGN_OR_RETURN(prompt, tokens_of("token_ids", request.token_ids().ids(), services.model.vocab_size));
      if (!out.echo || !services.tokenizer) return out;
      // Rows of the head without a token have no text: the ids alone come back then.
      if (Result<std::string> text = services.tokenizer->decode(prompt); text.ok()) out.prompt_text = *text;
      return out;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return invalid_argument("prompt: must be given, as text or as token_ids");
  }
  return internal_error("prompt case {}", static_cast<int>(request.prompt_case()));
}

Result<ChatFormat> chat_format_of(const v1::ChatRequest& in, const Services& services) {
  if (in.has_chat_format()) {
    Result<ChatFormat> format = parse_chat_format(in.chat_format());
    if (!format.ok()) return format.status().with_context("chat_format");
    return format;
  }
  if (services.chat_format) return *services.chat_format;
  if (!services.chat_status.ok()) return services.chat_status;
  return failed_precondition("chat_format: the model \"{}\" has no chat template that we know; name a format",
                             services.model.name);
}

Result<CheckedRequest> check_chat(const v1::ChatRequest& request, const Services& services, uint64_t fresh_seed) {
  std::vector<ChatMessage> messages;
  for (int i = 0; i < request.messages_size(); ++i) {
    const v1::Message& message = request.messages(i);
    SLUICE_ASSIGN_OR_RETURN(const ChatRole role, role_of(i, message.role()));
    SLUICE_RETURN_IF_ERROR(check_utf8(fmt::format("messages[{}].content", i), message.content()));
    messages.push_back({role, message.content()});
  }
  return check_chat(request, messages, {.thinking = request.thinking()}, services, fresh_seed);
}

Result<CheckedRequest> check_chat(const v1::ChatRequest& request, const std::vector<ChatMessage>& messages,
                                  const ChatOptions& options, const Services& services, uint64_t fresh_seed) {
  SLUICE_ASSIGN_OR_RETURN(CheckedRequest out, read_common(request, services, fresh_seed));
  if (!services.tokenizer) return no_tokenizer("messages", services.model);
  SLUICE_ASSIGN_OR_RETURN(const ChatFormat format, chat_format_of(request, services));
  SLUICE_ASSIGN_OR_RETURN(const std::vector<PromptPiece> pieces, render_chat(format, messages, options));
  SLUICE_ASSIGN_OR_RETURN(out.task.request.prompt, services.tokenizer->encode(pieces));
  SLUICE_RETURN_IF_ERROR(check_prompt_length("messages", out.task.request.prompt.size(), services.model));
  // V2 writes "Assistant: " before an answer of the history, but ends the prompt with "Assistant:"; without the space
  // the answer can be sent back as it came.
  out.task.strip_leading_space = format == ChatFormat::kDeepSeekV2 && !out.task.form;
  if (out.task.form && opens_thought(format, options.thinking))
    out.task.request.grammar_after = services.tokenizer->id_of(kEndOfThought);
  if (out.echo)
    for (const PromptPiece& piece : pieces) out.prompt_text += piece.text;
  return out;
}

Status fill_last_tokens(const std::optional<std::string>& text, const google::protobuf::RepeatedField<uint32_t>& ids,
                        int32_t max_tokens, const Services& services, v1::GenerateRequest* out) {
  auto& kept = *out->mutable_token_ids()->mutable_ids();
  if (text) {
    v1::TokenizeRequest request;
    request.set_text(*text);
    SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, check_tokenize(request, services));
    kept.Assign(tokens.begin(), tokens.end());
  } else {
    kept = ids;
  }
  if (kept.size() > max_tokens) kept.erase(kept.begin(), kept.end() - max_tokens);
  return {};
}

Result<std::vector<TokenId>> check_tokenize(const v1::TokenizeRequest& request, const Services& services) {
  SLUICE_RETURN_IF_ERROR(check_model(request.model(), services.model));
  return encode_text(request, services);
}

Result<std::string> check_detokenize(const v1::DetokenizeRequest& request, const Services& services) {
  SLUICE_RETURN_IF_ERROR(check_model(request.model(), services.model));
  if (!services.tokenizer)
    return failed_precondition("token_ids: the model \"{}\" has no tokenizer", services.model.name);
  SLUICE_ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                          tokens_of("token_ids", request.token_ids(), services.tokenizer->vocab_size()));
  Result<std::string> text = services.tokenizer->decode(ids, request.skip_special());
  if (!text.ok()) return text.status().with_context("token_ids");
  return text;
}

}  // namespace sluice
