// The layouts themselves. ⏎ is a newline; tags are special tokens, without spaces around them.
//
//   V2    BOS {system}⏎⏎ User: {user}⏎⏎ Assistant: {answer}EOS ... User: {user}⏎⏎ Assistant:
//   V3    BOS {systems, joined by ⏎⏎} <｜User｜>{user} <｜Assistant｜>{answer}EOS ... <｜Assistant｜>
//   R1    as V3; of an answer only what follows the last </think>; ends with <｜Assistant｜><think>⏎
//   V3.1  as V3; <｜Assistant｜></think>{answer}EOS, of an answer only what follows the first </think>; ends with
//         <｜Assistant｜></think>, or <｜Assistant｜><think> to make it think. With tools (the model card's layout, and
//         vLLM's tool_chat_template_deepseekv31.jinja for the turns): their list behind the systems, calls as
//         <｜tool▁calls▁begin｜> (<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>)...
//         <｜tool▁calls▁end｜>EOS, results as <｜tool▁output▁begin｜>{text}<｜tool▁output▁end｜>; behind a result the
//         model goes on without a tag.
//   V4    BOS {system} <｜User｜>{user} <｜Assistant｜></think>{answer}EOS, nothing between; of an answer only what
//         follows the first </think>; users in a row are one turn, joined by ⏎⏎; ends as V3.1. With tools (as public
//         renderings by the published encoder show them): their list behind the first system text, calls behind the
//         answer as ⏎⏎<｜DSML｜tool_calls>⏎ (<｜DSML｜invoke name="N">⏎ parameters </｜DSML｜invoke>⏎)...
//         </｜DSML｜tool_calls>EOS, a parameter as <｜DSML｜parameter name="K"
//         string="true|false">V</｜DSML｜parameter>⏎, results as <tool_result>{text}</tool_result> in the user's turn;
//         thoughts of earlier answers stay.
//   ChatML (Qwen's models without thoughts): for each message <|im_start|>{role}⏎{content}<|im_end|>⏎, no BOS; ends
//   with
//         <|im_start|>assistant⏎
//   Qwen3 as ChatML; of an answer only what follows the last </think>, without the line ends before it; to make it
//   think
//         the end is left open, otherwise <think>⏎⏎</think>⏎⏎ closes a thought. (Its template has tools, too.)
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "chat/chat_format.h"

namespace sluice {
namespace {

constexpr std::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr std::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr std::string_view kUser = "<｜User｜>";
constexpr std::string_view kAssistant = "<｜Assistant｜>";
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
constexpr std::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kCallBegin = "<｜tool▁call▁begin｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kToolSep = "<｜tool▁sep｜>";
constexpr std::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
constexpr std::string_view kOutputEnd = "<｜tool▁output▁end｜>";

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
      case ChatRole::kTool:
        break;  // refused before
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

// The words are the model's training, so they stay as they are.
void write_tools(const std::vector<ToolDefinition>& tools, Prompt* prompt) {
  prompt->text("\n\n## Tools\nYou have access to the following tools:\n");
  for (const ToolDefinition& tool : tools) {
    prompt->text("\n### ").text(tool.name).text("\n");
    if (!tool.description.empty()) prompt->text("Description: ").text(tool.description).text("\n");
    prompt->text("\nParameters: ").text(tool.parameters).text("\n");
  }
  prompt->text("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n")
      .special(kCallsBegin)
      .special(kCallBegin)
      .text("tool_call_name")
      .special(kToolSep)
      .text("tool_call_arguments")
      .special(kCallEnd)
      .text("{{additional_tool_calls}}")
      .special(kCallsEnd)
      .text(
          "\n\nWhere:\n\n- `tool_call_name` must be an exact match to one of the available tools\n"
          "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
          "- For multiple tool calls, chain them directly without separators or spaces\n");
}

void write_calls(const std::vector<ToolCall>& calls, Prompt* prompt) {
  prompt->special(kCallsBegin);
  for (const ToolCall& call : calls)
    prompt->special(kCallBegin).text(call.name).special(kToolSep).text(call.arguments).special(kCallEnd);
  prompt->special(kCallsEnd);
}

// Only an answer that follows a user's words gets the tags; one that follows another answer, or a tool's, just goes on.
void write_v31(const std::vector<ChatMessage>& messages, const ChatOptions& options, Prompt* prompt) {
  write_systems(messages, prompt);
  if (!options.tools.empty()) write_tools(options.tools, prompt);
  bool after_user = false;
  for (const ChatMessage& message : messages) {
    if (message.role == ChatRole::kUser) {
      prompt->special(kUser).text(message.content);
      after_user = true;
    } else if (message.role == ChatRole::kAssistant) {
      if (after_user) prompt->special(kAssistant).special(kEndThink);
      prompt->text(after_first_thought(message.content));
      if (!message.tool_calls.empty()) write_calls(message.tool_calls, prompt);
      prompt->special(kEos);
      after_user = false;
    } else if (message.role == ChatRole::kTool) {
      prompt->special(kOutputBegin).text(message.content).special(kOutputEnd);
      after_user = false;
    }
  }
  if (after_user) prompt->special(kAssistant).special(options.thinking ? kThink : kEndThink);
}

// JSON as Python's json.dumps writes it, which is what models were trained on: a space behind commas and colons.
std::string spaced(const nlohmann::ordered_json& value) {
  std::string text;
  if (value.is_object()) {
    for (const auto& [key, item] : value.items())
      text += (text.empty() ? "" : ", ") + nlohmann::ordered_json(key).dump() + ": " + spaced(item);
    return "{" + text + "}";
  }
  if (value.is_array()) {
    for (const nlohmann::ordered_json& item : value) text += (text.empty() ? "" : ", ") + spaced(item);
    return "[" + text + "]";
  }
  return value.dump();
}

constexpr int kMaxJsonDepth = 64;  // of what is written out by recursion

// Discarded if it is none, or nested too deep.
nlohmann::ordered_json parsed(const std::string& json) {
  bool deep = false;
  const auto look = [&](int depth, nlohmann::ordered_json::parse_event_t, nlohmann::ordered_json&) {
    deep |= depth > kMaxJsonDepth;
    return true;
  };
  nlohmann::ordered_json value = nlohmann::ordered_json::parse(json, look, false);
  return deep ? nlohmann::ordered_json(nlohmann::ordered_json::value_t::discarded) : value;
}

std::string quoted(const std::string& text) { return nlohmann::ordered_json(text).dump(); }

// The words are the model's training, so they stay as they are.
void write_markup_tools(const std::vector<ToolDefinition>& tools, Prompt* prompt) {
  prompt->text(
      "\n\n## Tools\n\nYou have access to a set of tools to help answer the user's question. You can invoke tools by "
      "writing a \"<｜DSML｜tool_calls>\" block like the following:\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke "
      "name=\"$TOOL_NAME\">\n<｜DSML｜parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE"
      "</｜DSML｜parameter>\n...\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"$TOOL_NAME2\">\n...\n</｜DSML｜invoke>\n"
      "</｜DSML｜tool_calls>\n\nString parameters should be specified as is and set `string=\"true\"`. For all other "
      "types "
      "(numbers, booleans, arrays, objects), pass the value in JSON format and set `string=\"false\"`.\n\nIf "
      "thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside "
      "<think>...</think> BEFORE any tool calls or final response.\n\nOtherwise, output directly after </think> with "
      "tool "
      "calls or final response.\n\n### Available Tool Schemas\n\n");
  for (const ToolDefinition& tool : tools) {
    prompt->text("{\"name\": ").text(quoted(tool.name));
    if (!tool.description.empty()) prompt->text(", \"description\": ").text(quoted(tool.description));
    prompt->text(", \"parameters\": ").text(tool.parameters).text("}\n");
  }
  prompt->text("\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n");
}

void write_markup_calls(const std::vector<ToolCall>& calls, Prompt* prompt) {
  prompt->text("\n\n<｜DSML｜tool_calls>\n");
  for (const ToolCall& call : calls) {
    prompt->text("<｜DSML｜invoke name=\"").text(call.name).text("\">\n");
    const nlohmann::ordered_json arguments = parsed(call.arguments);
    for (const auto& [key, value] : arguments.items()) {
      prompt->text("<｜DSML｜parameter name=\"")
          .text(key)
          .text(value.is_string() ? "\" string=\"true\">" : "\" string=\"false\">");
      prompt->text(value.is_string() ? value.get<std::string>() : spaced(value)).text("</｜DSML｜parameter>\n");
    }
    prompt->text("</｜DSML｜invoke>\n");
  }
  prompt->text("</｜DSML｜tool_calls>");
}

// "<think>a</think>b" and "a</think>b": a. Nothing where no thought ends.
std::string_view first_thought(std::string_view answer) {
  const size_t end = answer.find(kEndThink);
  if (end == std::string_view::npos) return {};
  const size_t begin = answer.starts_with(kThink) ? kThink.size() : 0;
  return begin > end ? std::string_view() : answer.substr(begin, end - begin);
}

// No template ships with V4; the layout is its published encoder's, whose `chat` and `thinking` modes differ in the
// last tag alone, because thoughts before the last user message are dropped; with tools they stay.
void write_v4(const std::vector<ChatMessage>& messages, const ChatOptions& options, Prompt* prompt) {
  prompt->special(kBos);
  bool offered = options.tools.empty();
  if (!offered && messages.front().role != ChatRole::kSystem) {
    write_markup_tools(options.tools, prompt);
    offered = true;
  }
  const bool keeps_thoughts = options.thinking && !options.tools.empty();
  const auto is_users = [](const ChatMessage& message) {
    return message.role == ChatRole::kUser || message.role == ChatRole::kTool;
  };
  bool waits = false;  // a user's words have no answer yet
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (is_users(message)) {
      if (i > 0 && is_users(messages[i - 1])) {
        prompt->text("\n\n");
      } else {
        prompt->special(kUser);
      }
      const bool is_result = message.role == ChatRole::kTool;
      prompt->text(is_result ? "<tool_result>" : "").text(message.content).text(is_result ? "</tool_result>" : "");
      waits = true;
    } else if (message.role == ChatRole::kAssistant) {
      if (waits) prompt->special(kAssistant);
      if (waits && keeps_thoughts) prompt->special(kThink).text(first_thought(message.content));
      if (waits) prompt->special(kEndThink);
      prompt->text(after_first_thought(message.content));
      if (!message.tool_calls.empty()) write_markup_calls(message.tool_calls, prompt);
      prompt->special(kEos);
      waits = false;
    } else {
      prompt->text(message.content);
      if (!std::exchange(offered, true)) write_markup_tools(options.tools, prompt);
    }
  }
  prompt->special(kAssistant).special(options.thinking ? kThink : kEndThink);
}

std::string_view without_line_ends_before(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}

void write_chatml(const std::vector<ChatMessage>& messages, bool qwen3, bool thinking, Prompt* prompt) {
  constexpr std::string_view kBegin = "<|im_start|>", kEnd = "<|im_end|>";
  for (const ChatMessage& message : messages) {
    std::string_view role = "user\n", content = message.content;
    if (message.role == ChatRole::kSystem) role = "system\n";
    if (message.role == ChatRole::kAssistant) {
      role = "assistant\n";
      if (qwen3) content = without_line_ends_before(after_last_thought(content));
    }
    prompt->special(kBegin).text(role).text(content).special(kEnd).text("\n");
  }
  prompt->special(kBegin).text("assistant\n");
  if (qwen3 && !thinking) prompt->special(kThink).text("\n\n").special(kEndThink).text("\n\n");
}

bool uses_tools(const ChatMessage& message) { return message.role == ChatRole::kTool || !message.tool_calls.empty(); }

Status check_messages(ChatFormat format, const std::vector<ChatMessage>& messages, const ChatOptions& options) {
  if (messages.empty()) return invalid_argument("messages: expected at least one, found none");
  if (!has_tools(format)) {
    if (!options.tools.empty())
      return failed_precondition("tools: the chat format {} has no layout for tools", name(format));
    for (size_t i = 0; i < messages.size(); ++i)
      if (uses_tools(messages[i]))
        return failed_precondition("messages[{}]: the chat format {} has no layout for tools", i, name(format));
  }
  if (format == ChatFormat::kDeepSeekV4) {  // takes arguments apart
    for (size_t i = 0; i < messages.size(); ++i)
      for (const ToolCall& call : messages[i].tool_calls)
        if (!parsed(call.arguments).is_object())
          return invalid_argument(
              "messages[{}].tool_calls: {}: arguments: expected a JSON object, nested at most {} deep", i, call.name,
              kMaxJsonDepth);
  }
  const ChatRole last = messages.back().role;
  if (last == ChatRole::kUser || last == ChatRole::kTool) return {};
  return invalid_argument("messages[{}].role: expected the last message to be the user's, found the {}'s",
                          messages.size() - 1, last == ChatRole::kSystem ? "system" : "assistant");
}

}  // namespace

bool has_tools(ChatFormat format) { return call_layout(format) != CallLayout::kNone; }

CallLayout call_layout(ChatFormat format) {
  if (format == ChatFormat::kDeepSeekV31) return CallLayout::kTags;
  return format == ChatFormat::kDeepSeekV4 ? CallLayout::kMarkup : CallLayout::kNone;
}

Result<std::vector<PromptPiece>> render_chat(ChatFormat format, const std::vector<ChatMessage>& messages,
                                             const ChatOptions& options) {
  SLUICE_RETURN_IF_ERROR(check_messages(format, messages, options));
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
      write_v31(messages, options, &prompt);
      break;
    case ChatFormat::kDeepSeekV4:
      write_v4(messages, options, &prompt);
      break;
    case ChatFormat::kQwen3:
    case ChatFormat::kChatMl:
      write_chatml(messages, format == ChatFormat::kQwen3, options.thinking, &prompt);
      break;
  }
  return prompt.take();
}

}  // namespace sluice
