// Messages and tools of a chat in OpenAI's form.
#include <algorithm>
#include <utility>

#include "server/openai_request.h"
#include "tokenizer/utf8.h"

namespace sluice {

namespace {

using json = Json;

// A schema deeper than this is no function's; it bounds the recursion below.
constexpr int kMaxSchemaDepth = 32;

// As Python's json.dumps writes it ("a": 1, "b": 2), which is what the templates do; keys sorted, so that equal schemas
// give equal prompts.
Status write_spaced(const json& value, int depth, std::string* out) {
  if (depth > kMaxSchemaDepth)
    return invalid_argument("tools: parameters are nested more than {} deep", kMaxSchemaDepth);
  const char* separator = "";
  if (value.is_object()) {
    *out += '{';
    for (const auto& [key, member] : value.items()) {
      *out += std::exchange(separator, ", ") + json(key).dump() + ": ";
      SLUICE_RETURN_IF_ERROR(write_spaced(member, depth + 1, out));
    }
    *out += '}';
  } else if (value.is_array()) {
    *out += '[';
    for (const json& element : value) {
      *out += std::exchange(separator, ", ");
      SLUICE_RETURN_IF_ERROR(write_spaced(element, depth + 1, out));
    }
    *out += ']';
  } else {
    *out += value.dump();
  }
  return {};
}

Result<ChatRole> role_of(const JsonBody& message, const std::string& role) {
  if (role == "system" || role == "developer") return ChatRole::kSystem;
  if (role == "user") return ChatRole::kUser;
  if (role == "assistant") return ChatRole::kAssistant;
  if (role == "tool") return ChatRole::kTool;
  return invalid_argument("{}: expected system, developer, user, assistant or tool, found \"{}\"", message.path("role"),
                          role.substr(0, 40));
}

// A string, or an array of text parts.
Status read_content(JsonBody& message, std::string* out) {
  const json* content = message.find("content");
  if (!content) return {};
  if (content->is_string()) {
    *out = content->get<std::string>();
    return {};
  }
  if (!content->is_array()) return message.wrong("content", "a string or an array of parts");
  for (size_t i = 0; i < content->size(); ++i) {
    const json& part = (*content)[i];
    const std::string path = fmt::format("{}[{}]", message.path("content"), i);
    if (!part.is_object()) return invalid_argument("{}: expected an object, found {}", path, kind_of(part));
    JsonBody fields(part, path + ".");
    std::string type, text;
    SLUICE_RETURN_IF_ERROR(fields.read("type", &type));
    if (type != "text") return Status(StatusCode::kUnimplemented, path + ".type: only \"text\" is supported");
    SLUICE_RETURN_IF_ERROR(fields.read("text", &text));
    SLUICE_RETURN_IF_ERROR(fields.expect_nothing_else());
    *out += text;
  }
  return {};
}

Status read_calls(JsonBody& message, std::vector<ToolCall>* out) {
  const json* calls = message.find("tool_calls");
  if (!calls) return {};
  if (!calls->is_array()) return message.wrong("tool_calls", "an array");
  for (size_t i = 0; i < calls->size(); ++i) {
    const json& call = (*calls)[i];
    const std::string path = fmt::format("{}[{}].function", message.path("tool_calls"), i);
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object())
      return invalid_argument("{}: expected an object", path);
    JsonBody function(call["function"], path + ".");
    ToolCall read;
    SLUICE_RETURN_IF_ERROR(function.read("name", &read.name));
    SLUICE_RETURN_IF_ERROR(function.read("arguments", &read.arguments));
    if (read.name.empty()) return invalid_argument("{}.name: must not be empty", path);
    out->push_back(std::move(read));
  }
  return {};
}

Result<ChatMessage> read_message(const json& value, size_t index) {
  const std::string path = fmt::format("messages[{}]", index);
  if (!value.is_object()) return invalid_argument("{}: expected an object, found {}", path, kind_of(value));
  JsonBody fields(value, path + ".");
  ChatMessage message;
  std::string role;
  SLUICE_RETURN_IF_ERROR(fields.read("role", &role));
  SLUICE_ASSIGN_OR_RETURN(message.role, role_of(fields, role));
  SLUICE_RETURN_IF_ERROR(read_content(fields, &message.content));
  SLUICE_RETURN_IF_ERROR(read_calls(fields, &message.tool_calls));
  if (!message.tool_calls.empty() && message.role != ChatRole::kAssistant)
    return invalid_argument("{}.tool_calls: only the assistant calls tools", path);
  // What an answer carried besides its text comes back with it, and is no part of the prompt.
  fields.ignore(
      {"name", "tool_call_id", "reasoning_content", "reasoning", "refusal", "audio", "annotations", "function_call"});
  SLUICE_RETURN_IF_ERROR(fields.expect_nothing_else());
  return message;
}

// `strict` becomes true if the tool asks for it.
Result<ToolDefinition> read_tool(const json& value, size_t index, bool* strict) {
  const std::string path = fmt::format("tools[{}]", index);
  if (!value.is_object() || !value.contains("function") || !value["function"].is_object())
    return invalid_argument("{}.function: expected an object", path);
  if (value.contains("type") && value["type"] != "function")
    return invalid_argument("{}.type: expected \"function\"", path);
  JsonBody fields(value["function"], path + ".function.");
  ToolDefinition tool;
  SLUICE_RETURN_IF_ERROR(fields.read("name", &tool.name));
  if (tool.name.empty()) return invalid_argument("{}.function.name: must not be empty", path);
  SLUICE_RETURN_IF_ERROR(fields.read("description", &tool.description));
  const json* parameters = fields.find("parameters");
  if (parameters && !parameters->is_object()) return fields.wrong("parameters", "a JSON schema");
  bool is_strict = false;
  SLUICE_RETURN_IF_ERROR(fields.read("strict", &is_strict));
  *strict |= is_strict;
  SLUICE_RETURN_IF_ERROR(fields.expect_nothing_else());
  SLUICE_RETURN_IF_ERROR(write_spaced(parameters ? *parameters : json::object(), 0, &tool.parameters));
  return tool;
}

}  // namespace

Result<std::vector<ChatMessage>> read_messages(JsonBody& body) {
  const json* values = body.find("messages");
  if (!values) return invalid_argument("messages: must be given");
  if (!values->is_array()) return body.wrong("messages", "an array");
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < values->size(); ++i) {
    SLUICE_ASSIGN_OR_RETURN(ChatMessage message, read_message((*values)[i], i));
    messages.push_back(std::move(message));
  }
  return messages;
}

namespace {

// {"type": "function", "function": {"name": ...}}
Result<std::string> read_named_tool(const json& choice) {
  JsonBody fields(choice, "tool_choice.");
  std::string type, name;
  SLUICE_RETURN_IF_ERROR(fields.read("type", &type));
  const json* function = fields.find("function");
  SLUICE_RETURN_IF_ERROR(fields.expect_nothing_else());
  if (type != "function" || !function || !function->is_object())
    return fields.wrong("function", "an object with a name");
  JsonBody inner(*function, "tool_choice.function.");
  SLUICE_RETURN_IF_ERROR(inner.read("name", &name));
  SLUICE_RETURN_IF_ERROR(inner.expect_nothing_else());
  return name;
}

Status read_tool_choice(const json& choice, bool one_at_a_time, ToolRequest* out) {
  if (choice == "auto") return {};
  if (choice == "required") {
    out->calls = one_at_a_time ? ToolCalls::kOne : ToolCalls::kAny;
    out->callable = out->tools;
  } else if (choice.is_object()) {
    SLUICE_ASSIGN_OR_RETURN(const std::string name, read_named_tool(choice));
    const auto place = std::ranges::find(out->tools, name, &ToolDefinition::name);
    if (place == out->tools.end())
      return invalid_argument("tool_choice.function.name: \"{}\" is none of the tools",
                              name.substr(0, valid_utf8_prefix(name.substr(0, 80))));
    out->calls = ToolCalls::kOne;
    out->callable = {*place};
  } else {
    return invalid_argument("tool_choice: expected \"auto\", \"none\", \"required\" or a function, found {}",
                            kind_of(choice));
  }
  if (out->tools.empty()) return invalid_argument("tool_choice: there are no tools to choose from");
  return {};
}

}  // namespace

Result<ToolRequest> read_tools(JsonBody& body) {
  ToolRequest out;
  const json* choice = body.find("tool_choice");
  const json* values = body.find("tools");
  bool parallel = true, strict = false;
  SLUICE_RETURN_IF_ERROR(body.read("parallel_tool_calls", &parallel));
  if (choice && *choice == "none") return out;
  if (values && !values->is_array()) return body.wrong("tools", "an array");
  for (size_t i = 0; values && i < values->size(); ++i) {
    SLUICE_ASSIGN_OR_RETURN(ToolDefinition tool, read_tool((*values)[i], i, &strict));
    out.tools.push_back(std::move(tool));
  }
  if (strict) {
    out.calls = ToolCalls::kWellFormed;
    out.callable = out.tools;
  }
  if (choice) SLUICE_RETURN_IF_ERROR(read_tool_choice(*choice, !parallel, &out));
  return out;
}

}  // namespace sluice
