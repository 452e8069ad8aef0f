#include "server/output_form.h"

#include <utility>

#include "chat/answer_parser.h"
#include "tokenizer/utf8.h"

namespace sluice {

namespace {

using json = Json;

// Refuses what is no JSON object or nested too deep, before anything that recurses sees it.
class DepthCheck final : public json::json_sax_t {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool key(string_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override {
    if (depth == 0) no_object = true;
    return !no_object && enter();
  }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    broken_at = position;
    return false;
  }

  bool too_deep = false, no_object = false;
  std::size_t broken_at = 0;
  int depth = 0, num_objects = 0;

 private:
  bool enter() {
    ++num_objects;
    too_deep = ++depth > kMaxFormDepth;
    return !too_deep;
  }
  bool leave() {
    --depth;
    return true;
  }
};

Status check_json(const char* field, const std::string& text) {
  DepthCheck check;
  const bool good = json::sax_parse(text, &check);
  if (check.too_deep) return invalid_argument("{}: is nested more than {} deep", field, kMaxFormDepth);
  if (!good && !check.no_object)
    return invalid_argument("{}: is not valid JSON from byte {} on", field, check.broken_at);
  if (!good || check.num_objects == 0) return invalid_argument("{}: expected a JSON object", field);
  return {};
}

// The text as a string of an EBNF grammar.
std::string ebnf_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out += '"';
}

Result<std::string> grammar_of(const v1::Choices& choices) {
  if (choices.values_size() < 1 || choices.values_size() > kMaxFormChoices)
    return invalid_argument("form.choice: count: must be in [1, {}], got {}", kMaxFormChoices, choices.values_size());
  std::string grammar = "root ::= ";
  for (int i = 0; i < choices.values_size(); ++i) {
    if (choices.values(i).empty()) return invalid_argument("form.choice[{}]: must not be empty", i);
    if (choices.values(i).find('\0') != std::string::npos)
      return invalid_argument("form.choice[{}]: must not hold a zero byte", i);
    grammar += (i > 0 ? " | " : "") + ebnf_text(choices.values(i));
  }
  return grammar;
}

Result<OutputForm> form_of(const v1::Form& in) {
  switch (in.kind_case()) {
    case v1::Form::kJsonSchema:
      SLUICE_RETURN_IF_ERROR(check_json("form.json_schema", in.json_schema()));
      return OutputForm{FormKind::kJsonSchema, in.json_schema(), "form.json_schema"};
    case v1::Form::kRegex:
      return OutputForm{FormKind::kRegex, in.regex(), "form.regex"};
    case v1::Form::kGrammar:
      return OutputForm{FormKind::kGrammar, in.grammar(), "form.grammar"};
    case v1::Form::kStructuralTag:
      SLUICE_RETURN_IF_ERROR(check_json("form.structural_tag", in.structural_tag()));
      return OutputForm{FormKind::kStructuralTag, in.structural_tag(), "form.structural_tag"};
    case v1::Form::kChoice: {
      SLUICE_ASSIGN_OR_RETURN(std::string grammar, grammar_of(in.choice()));
      return OutputForm{FormKind::kGrammar, std::move(grammar), "form.choice"};
    }
    case v1::Form::kJsonObject:
    case v1::Form::KIND_NOT_SET:
      break;
  }
  return OutputForm{FormKind::kJsonObject, "", "form.json_object"};
}

// A text, or the JSON of whatever it is.
std::string text_of(const json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

Status read_choices(const json& value, const std::string& field, v1::Form* out) {
  const Status wrong = invalid_argument("{}: expected a list of strings, found {}", field, kind_of(value));
  if (!value.is_array()) return wrong;
  for (const json& choice : value) {
    if (!choice.is_string()) return wrong;
    out->mutable_choice()->add_values(choice.get<std::string>());
  }
  if (value.empty()) out->mutable_choice();
  return {};
}

Status read_text(const json& value, const std::string& field, std::string* out) {
  if (!value.is_string()) return invalid_argument("{}: expected a string, found {}", field, kind_of(value));
  *out = value.get<std::string>();
  return {};
}

// `key` as in structured_outputs.
Status read_one(const std::string& key, const json& value, const std::string& field, v1::Form* out) {
  if (key == "json") {
    if (!value.is_object() && !value.is_string())
      return invalid_argument("{}: expected a JSON schema, found {}", field, kind_of(value));
    out->set_json_schema(text_of(value));
    return {};
  }
  if (key == "choice") return read_choices(value, field, out);
  if (key == "regex") return read_text(value, field, out->mutable_regex());
  if (key == "grammar") return read_text(value, field, out->mutable_grammar());
  if (key == "structural_tag") {
    if (!value.is_object() && !value.is_string())
      return invalid_argument("{}: expected an object, found {}", field, kind_of(value));
    out->set_structural_tag(text_of(value));
    return {};
  }
  if (!value.is_boolean()) return invalid_argument("{}: expected true or false, found {}", field, kind_of(value));
  if (value.get<bool>()) out->set_json_object(true);
  return {};
}

// OpenAI's own field.
Status read_openai_format(const json& format, v1::Form* out) {
  if (!format.is_object() || !format.contains("type") || !format["type"].is_string())
    return invalid_argument("response_format: expected an object with a type, found {}", kind_of(format));
  JsonBody fields(format, "response_format.");
  std::string type;
  SLUICE_RETURN_IF_ERROR(fields.read("type", &type));
  if (type == "json_schema") {
    const json* named = fields.find("json_schema");
    if (!named || !named->is_object()) return fields.wrong("json_schema", "an object with a schema");
    JsonBody inner(*named, "response_format.json_schema.");
    const json* schema = inner.find("schema");
    if (!schema || !schema->is_object()) return inner.wrong("schema", "a JSON schema");
    inner.ignore({"name", "description", "strict"});  // it is always strict here
    SLUICE_RETURN_IF_ERROR(inner.expect_nothing_else());
    out->set_json_schema(schema->dump());
  } else if (type == "json_object") {
    out->set_json_object(true);
  } else if (type == "structural_tag") {
    out->set_structural_tag(format.dump());
    return {};
  } else if (type != "text") {
    return invalid_argument(
        "response_format.type: expected text, json_object, json_schema or structural_tag, found \"{}\"",
        type.substr(0, valid_utf8_prefix(type.substr(0, 40))));
  }
  return fields.expect_nothing_else();
}

}  // namespace

Result<std::optional<OutputForm>> check_form(const v1::Form& in, const Services& services) {
  if (in.kind_case() == v1::Form::KIND_NOT_SET) return std::optional<OutputForm>();
  if (in.kind_case() == v1::Form::kJsonObject && !in.json_object()) return std::optional<OutputForm>();
  SLUICE_ASSIGN_OR_RETURN(OutputForm form, form_of(in));
  if (form.kind != FormKind::kJsonObject && (form.text.empty() || form.text.size() > kMaxFormBytes))
    return invalid_argument("{}: must have 1 to {} bytes, got {}", form.field, kMaxFormBytes, form.text.size());
  if (valid_utf8_prefix(form.text) != form.text.size()) return invalid_argument("{}: is not valid UTF-8", form.field);
  if (!services.tokenizer)
    return failed_precondition("{}: the model \"{}\" has no tokenizer", form.field, services.model.name);
  if (services.model.eos_token_ids.empty())
    return failed_precondition("{}: the model \"{}\" names no end-of-sequence token, so no form would end", form.field,
                               services.model.name);
  if (!services.has_grammars)
    return failed_precondition("{}: this server was built without grammars (SLUICE_GRAMMAR)", form.field);
  return std::optional(std::move(form));
}

Result<CheckedRequest> name_form(Result<CheckedRequest> checked, const std::string& name) {
  if (checked.ok()) {
    if (checked->task.form) checked->task.form->field = name;
    return checked;
  }
  const Status status = checked.status();
  if (!status.message().starts_with("form.")) return checked;
  return Status(status.code(), name + status.message().substr(status.message().find(':')));
}

Status read_structured_outputs(const json& object, const std::string& field, v1::Form* out) {
  if (!object.is_object()) return invalid_argument("{}: expected an object, found {}", field, kind_of(object));
  bool found = false;
  for (const char* key : {"json", "regex", "choice", "grammar", "json_object", "structural_tag"}) {
    const auto place = object.find(key);
    if (place == object.end() || place->is_null()) continue;
    if (std::exchange(found, true)) return invalid_argument("{}: expected one form, found two", field);
    SLUICE_RETURN_IF_ERROR(read_one(key, *place, field + "." + key, out));
  }
  JsonBody fields(object, field + ".");
  fields.ignore({"json", "regex", "choice", "grammar", "json_object", "structural_tag"});
  // How vLLM gets there: we have one way. Whitespace between JSON's parts is bounded.
  fields.ignore({"backend", "_backend", "disable_fallback", "disable_any_whitespace", "disable_additional_properties",
                 "whitespace_pattern"});
  return fields.expect_nothing_else();
}

Result<std::string> read_response_format(JsonBody& body, v1::Form* out) {
  std::string name;
  const auto take = [&name, out](const char* field) -> Status {
    if (out->kind_case() == v1::Form::KIND_NOT_SET) return {};
    if (!name.empty()) return invalid_argument("{}: {} asks for a form already", field, name);
    name = field;
    return {};
  };
  v1::Form form;
  const auto merge = [&](const char* field) -> Status {
    if (form.kind_case() == v1::Form::KIND_NOT_SET) return {};
    *out = std::exchange(form, {});
    return take(field);
  };
  if (const json* format = body.find("response_format")) {
    SLUICE_RETURN_IF_ERROR(read_openai_format(*format, &form));
    SLUICE_RETURN_IF_ERROR(merge("response_format"));
  }
  if (const json* outputs = body.find("structured_outputs")) {
    SLUICE_RETURN_IF_ERROR(read_structured_outputs(*outputs, "structured_outputs", &form));
    SLUICE_RETURN_IF_ERROR(merge("structured_outputs"));
  }
  constexpr std::pair<const char*, const char*> kGuided[] = {
      {"guided_json", "json"}, {"guided_regex", "regex"}, {"guided_choice", "choice"}, {"guided_grammar", "grammar"}};
  for (const auto& [field, key] : kGuided) {
    const json* value = body.find(field);
    if (!value) continue;
    SLUICE_RETURN_IF_ERROR(read_one(key, *value, field, &form));
    SLUICE_RETURN_IF_ERROR(merge(field));
  }
  body.ignore({"guided_decoding_backend", "guided_whitespace_pattern"});
  return name;
}

std::string tool_call_tag(const std::vector<ToolDefinition>& tools, ToolCalls calls, const Tokenizer& tokenizer) {
  const auto tag = [&tokenizer](std::string_view text) -> json {
    if (const auto id = tokenizer.id_of(text)) return {{"type", "token"}, {"token", *id}};
    return {{"type", "const_string"}, {"value", text}};
  };
  const auto sequence = [](json elements) -> json { return {{"type", "sequence"}, {"elements", std::move(elements)}}; };
  json one = {{"type", "or"}, {"elements", json::array()}};
  for (const ToolDefinition& tool : tools) {
    json schema = json::parse(tool.parameters);
    if (schema.empty()) schema["type"] = "object";
    one["elements"].push_back(sequence({tag(tool_tags::kCallBegin),
                                        {{"type", "const_string"}, {"value", tool.name}},
                                        tag(tool_tags::kSeparator),
                                        {{"type", "json_schema"}, {"json_schema", std::move(schema)}},
                                        tag(tool_tags::kCallEnd)}));
  }
  json content = calls == ToolCalls::kOne ? one : json{{"type", "plus"}, {"content", one}};
  const json begin = tag(tool_tags::kCallsBegin), end = tag(tool_tags::kCallsEnd);
  json format = sequence({begin, content, end});
  if (calls == ToolCalls::kWellFormed) {
    const bool by_id = begin["type"] == "token" && end["type"] == "token";
    json between = {{"type", "tag"},
                    {"begin", by_id ? begin : json(tool_tags::kCallsBegin)},
                    {"content", content},
                    {"end", by_id ? end : json(tool_tags::kCallsEnd)}};
    format = by_id ? json{{"type", "token_triggered_tags"}, {"trigger_tokens", {begin["token"]}}}
                   : json{{"type", "triggered_tags"}, {"triggers", {tool_tags::kCallsBegin}}};
    format["tags"] = json::array({std::move(between)});
  }
  return json{{"type", "structural_tag"}, {"format", std::move(format)}}.dump();
}

}  // namespace sluice
