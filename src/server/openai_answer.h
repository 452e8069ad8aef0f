// An answer on its way to a client of OpenAI's API: one JSON body at the end, or server-sent events as they come. Owns
// what must be known across batches (the parsers of a chat, text offsets); knows no sockets. One per answer, one thread
// at a time.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "chat/answer_parser.h"
#include "server/answer_stream.h"
#include "server/openai_request.h"

namespace sluice {

// {"error": {"message", "type", "param", "code"}}; `param` is the field that the message begins with.
nlohmann::json openai_error(const Status& status);
int http_status(const Status& status);

// "data: {...}\n\n"
std::string sse_event(const nlohmann::json& data);
constexpr std::string_view kSseDone = "data: [DONE]\n\n";

class OpenAiAnswer {
 public:
  // `id` is the request's; `created` seconds since 1970.
  OpenAiAnswer(const OpenAiRequest& request, std::string id, int64_t created, const Services& services);

  // Everything at once, for a batch that holds the end, whose status is ok.
  std::string whole(AnswerStream::Batch batch);
  // Events for what is new; with the end also the usage, the error if there was one, and the mark of the end.
  std::string events(AnswerStream::Batch batch);

 private:
  struct Choice {
    AnswerParser parser;
    size_t text_offset = 0;  // characters shown so far
    bool began = false;
  };

  nlohmann::json head(const char* object) const;
  void take_prompt(const AnswerStream::Batch& batch);
  nlohmann::json completion_choice(GenerationDelta& delta);
  nlohmann::json completion_logprobs(const GenerationDelta& delta, Choice& choice, bool with_prompt) const;
  void add_position(TokenId token, const PositionLogprobs& position, nlohmann::json* out, Choice& choice) const;
  nlohmann::json chat_choice(GenerationDelta& delta);
  nlohmann::json chat_delta(GenerationDelta& delta, Choice& choice);
  nlohmann::json chat_logprobs(const GenerationDelta& delta) const;
  nlohmann::json chat_token(const TokenLogprob& token) const;
  nlohmann::json usage(const GenerationEnd& end) const;
  std::string call_id(int32_t choice, int32_t call) const;

  const std::string id_;
  const int64_t created_;
  const std::string& model_;
  const Tokenizer* const tokenizer_;
  const bool chat_, stream_, include_usage_, echo_, logprobs_, only_prompt_;
  std::string prompt_text_;
  std::vector<TokenId> prompt_;                    // with echo
  std::vector<PositionLogprobs> prompt_logprobs_;  // they come once, every choice shows them
  std::vector<Choice> choices_;
};

}  // namespace sluice
