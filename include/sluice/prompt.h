// Messages of a conversation, and the prompt pieces that a chat format makes of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant, kTool };

// The model asks for a function to be run.
struct ToolCall {
  std::string name;
  std::string arguments;  // JSON, as the model wrote it
};

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;                 // of kTool: what the function gave
  std::vector<ToolCall> tool_calls{};  // of kAssistant
};

// A function that the model may ask for.
struct ToolDefinition {
  std::string name;
  std::string description;  // may be empty
  std::string parameters;   // JSON schema
};

// A piece of a prompt: either the text of one special token, or ordinary text. The two are kept apart so that a
// user's own words can never forge a role. Neighbouring ordinary texts are already joined, because byte-pair
// encoding looks across the seam.
struct PromptPiece {
  std::string text;
  bool special = false;
};

}  // namespace sluice
