// The layouts themselves. ⏎ is a newline; tags are special tokens, without spaces around them.
//
//   V2    BOS {system}⏎⏎ User: {user}⏎⏎ Assistant: {answer}EOS ... User: {user}⏎⏎ Assistant:
//   V3    BOS {systems, joined by ⏎⏎} <｜User｜>{user} <｜Assistant｜>{answer}EOS ... <｜Assistant｜>
//   R1    as V3; of an answer only what follows the last </think>; ends with <｜Assistant｜><think>⏎
//   V3.1  as V3; <｜Assistant｜></think>{answer}EOS, of an answer only what follows the first </think>; ends with
//         <｜Assistant｜></think>, or <｜Assistant｜><think> to make it think
#include "chat/chat_format.h"

namespace sluice {
namespace {

constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr std::string_view kUser = "<｜User｜>";
constexpr std::string_view kAssistant = "<｜Assistant｜>";
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";

// Joins neighbouring ordinary texts, because byte pairs merge across the seam.
class Prompt {
 public:
  Prompt& special(std::string_view token) {
    pieces_.push_back({std::string(token), true});
    return *this;
  }
  Prompt& text(std::string_view text) {
    if (text.empty()) return *this;
    if (pieces_.empty() || pieces_.back().special) pieces_.push_back({"", false});
    pieces_.back().text += text;
    return *this;
  }
  std::vector<PromptPiece> take() { return std::move(pieces_); }

 private:
  std::vector<PromptPiece> pieces_;
};

std::string_view after_last_thought(std::string_view answer) {
  const size_t end = answer.rfind(kEndThink);
  return end == std::string_view::npos ? answer : answer.substr(end + kEndThink.size());
}

std::string_view after_first_thought(std::string_view answer) {
  const size_t end = answer.find(kEndThink);
  return end == std::string_view::npos ? answer : answer.substr(end + kEndThink.size());
}

void write_v2(const std::vector<ChatMessage>& messages, Prompt* prompt) {
  prompt->special(kBos);
  for (const ChatMessage& message : messages) {
    switch (message.role) {
      case ChatRole::kSystem:
        prompt->text(message.content).text("\n\n");
        break;
      case ChatRole::kUser:
        prompt->text("User: ").text(message.content).text("\n\n");
        break;
      case ChatRole::kAssistant:
        prompt->text("Assistant: ").text(message.content).special(kEos);
        break;
    }
  }
  prompt->text("Assistant:");
}

// V3 and its descendants begin alike.
void write_systems(const std::vector<ChatMessage>& messages, Prompt* prompt) {
  prompt->special(kBos);
  bool is_first = true;
  for (const ChatMessage& message : messages) {
    if (message.role != ChatRole::kSystem) continue;
    prompt->text(is_first ? "" : "\n\n").text(message.content);
    is_first = false;
  }
}

void write_v3(const std::vector<ChatMessage>& messages, bool is_r1, Prompt* prompt) {
  write_systems(messages, prompt);
  for (const ChatMessage& message : messages) {
    if (message.role == ChatRole::kUser) prompt->special(kUser).text(message.content);
    if (message.role != ChatRole::kAssistant) continue;
    prompt->special(kAssistant);
    prompt->text(is_r1 ? after_last_thought(message.content) : message.content).special(kEos);
  }
  prompt->special(kAssistant);
  if (is_r1) prompt->special(kThink).text("\n");
}

// Only an answer that follows a user's words gets the tags; one that follows another answer just goes on.
void write_v31(const std::vector<ChatMessage>& messages, bool thinking, Prompt* prompt) {
  write_systems(messages, prompt);
  bool after_user = false;
  for (const ChatMessage& message : messages) {
    if (message.role == ChatRole::kUser) {
      prompt->special(kUser).text(message.content);
      after_user = true;
    } else if (message.role == ChatRole::kAssistant) {
      if (after_user) prompt->special(kAssistant).special(kEndThink);
      prompt->text(after_first_thought(message.content)).special(kEos);
      after_user = false;
    }
  }
  prompt->special(kAssistant).special(thinking ? kThink : kEndThink);
}

}  // namespace

Result<std::vector<PromptPiece>> render_chat(ChatFormat format, const std::vector<ChatMessage>& messages,
                                             const ChatOptions& options) {
  if (messages.empty()) return invalid_argument("messages: expected at least one, found none");
  if (messages.back().role != ChatRole::kUser)
    return invalid_argument("messages[{}].role: expected the last message to be the user's, found the {}'s",
                            messages.size() - 1, messages.back().role == ChatRole::kSystem ? "system" : "assistant");
  Prompt prompt;
  switch (format) {
    case ChatFormat::kDeepSeekV2:
      write_v2(messages, &prompt);
      break;
    case ChatFormat::kDeepSeekV3:
      write_v3(messages, false, &prompt);
      break;
    case ChatFormat::kDeepSeekR1:
      write_v3(messages, true, &prompt);
      break;
    case ChatFormat::kDeepSeekV31:
      write_v31(messages, options.thinking, &prompt);
      break;
  }
  return prompt.take();
}

}  // namespace sluice
