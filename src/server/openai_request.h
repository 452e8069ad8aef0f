// From a body of OpenAI's API to a checked request: reads the JSON strictly, in OpenAI's names, then takes the road of
// the native protocol (validate.h), so that ranges and defaults are the same. Every error names the field as the client
// wrote it. Server threads; pure functions but for the fresh seed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/answer_parser.h"
#include "server/json_body.h"
#include "server/output_form.h"
#include "server/services.h"
#include "server/validate.h"

namespace sluice {

struct OpenAiRequest {
  CheckedRequest checked;
  bool chat = false;
  bool stream = false;
  bool include_usage = false;  // a last event with the usage
  bool echo = false;           // completions: the prompt is part of the text
  bool logprobs = false;
  bool only_prompt = false;  // completions with max_tokens 0: the one token that was drawn is not shown
  bool thinks = false;       // chat: the answer begins inside a thought
  CallLayout calls = CallLayout::kNone;  // chat: how the answer asks for tools, where it may
};

Result<OpenAiRequest> read_completion(std::string_view body, const Services& services, uint64_t fresh_seed);
Result<OpenAiRequest> read_chat_completion(std::string_view body, const Services& services, uint64_t fresh_seed);

// Messages and tools of a chat: openai_chat.cc.
Result<std::vector<ChatMessage>> read_messages(JsonBody& body);
struct ToolRequest {
  std::vector<ToolDefinition> tools;     // offered; none with tool_choice "none"
  std::optional<ToolCalls> calls;        // what the answer must keep to; none: nothing
  std::vector<ToolDefinition> callable;  // of `tools`, those that `calls` means
};
Result<ToolRequest> read_tools(JsonBody& body);

}  // namespace sluice
