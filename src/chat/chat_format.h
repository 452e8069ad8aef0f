// From a list of messages to the exact prompt a model was trained on. Owns the layouts of the known families and the
// fingerprints by which a checkpoint's own `chat_template` is recognised; runs no Jinja and makes no token ids. Called
// by server threads and offline tools; pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/prompt.h"
#include "sluice/status.h"

namespace sluice {

enum class ChatFormat : uint8_t { kDeepSeekV2, kDeepSeekV3, kDeepSeekR1, kDeepSeekV31, kDeepSeekV4, kQwen3, kChatMl };

const char* name(ChatFormat format);                          // "deepseek-v2", "-v3", "-r1", "-v3.1", "-v4", "qwen3", "chatml"
Result<ChatFormat> parse_chat_format(std::string_view text);  // INVALID_ARGUMENT lists the known names

// Recognises a checkpoint's chat_template: by its hash if we know that very text, else by literal features.
// FAILED_PRECONDITION with the known list for an unknown or empty one.
Result<ChatFormat> detect_chat_format(std::string_view chat_template);

struct ChatOptions {
  // V3.1, V4: open with <think> instead of </think>. Qwen3: leave the thought to the model instead of closing an empty
  // one. The other formats have one opening only.
  bool thinking = false;
  std::vector<ToolDefinition> tools{};  // only where has_tools(format)
};

// The format says how functions are offered, asked for and answered. The others have no such layout in their template,
// or only a part of it.
bool has_tools(ChatFormat format);

// How a model writes that it asks for functions: not at all, V3.1's special tokens, V4's markup.
enum class CallLayout : uint8_t { kNone, kTags, kMarkup };
CallLayout call_layout(ChatFormat format);

// The prompt up to where the model's answer begins, begin-of-sequence token included; what the family's template makes
// of `messages` with add_generation_prompt. System messages may stand anywhere: V2 writes them where they stand, the
// others collect them in front. INVALID_ARGUMENT for an empty list, or one that does not end with a user message (or
// what a tool gave); FAILED_PRECONDITION for tools in a format without them.
Result<std::vector<PromptPiece>> render_chat(ChatFormat format, const std::vector<ChatMessage>& messages,
                                             const ChatOptions& options);

}  // namespace sluice
