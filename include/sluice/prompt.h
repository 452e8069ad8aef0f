// Messages of a conversation, and the prompt pieces that a chat format makes of them.
#pragma once

#include <cstdint>
#include <string>

namespace sluice {

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant };

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
};

// A piece of a prompt: either the text of one special token, or ordinary text. The two are kept apart so that a
// user's own words can never forge a role. Neighbouring ordinary texts are already joined, because byte-pair
// encoding looks across the seam.
struct PromptPiece {
  std::string text;
  bool special = false;
};

}  // namespace sluice
