#include "tokenizer/tokenizer_config.h"

#include "tokenizer/json_field.h"

namespace sluice {
namespace {

// A token is written as its text, or as an object with the text under "content".
Status read_token(const JsonField& field, std::optional<std::string>* token) {
  if (field.empty()) return {};
  const JsonField text = field.json().is_object() ? field["content"] : field;
  SLUICE_ASSIGN_OR_RETURN(*token, text.string());
  return {};
}

// One template as a text, or several as a list of {name, template}, of which the one named "default" is for chats.
Status read_template(const JsonField& field, std::string* chat_template) {
  if (field.empty()) return {};
  if (!field.json().is_array()) {
    SLUICE_ASSIGN_OR_RETURN(*chat_template, field.string());
    return {};
  }
  for (size_t i = 0; i < field.size(); ++i) {
    SLUICE_ASSIGN_OR_RETURN(const std::string name, field[i]["name"].string());
    if (name != "default") continue;
    SLUICE_ASSIGN_OR_RETURN(*chat_template, field[i]["template"].string());
    return {};
  }
  return field.wrong("a template named \"default\"");
}

}  // namespace

Result<TokenizerConfig> parse_tokenizer_config(std::string_view text) {
  TokenizerConfig config;
  if (text.empty()) return config;
  const std::string file = "tokenizer_config.json";
  SLUICE_ASSIGN_OR_RETURN(const nlohmann::json document, parse_json(text, file));
  const JsonField root(&document, file);
  if (!document.is_object()) return root.wrong("an object");
  if (!root["add_bos_token"].empty()) {
    SLUICE_ASSIGN_OR_RETURN(config.add_bos_token, root["add_bos_token"].boolean(false));
  }
  SLUICE_RETURN_IF_ERROR(read_token(root["bos_token"], &config.bos_token));
  SLUICE_RETURN_IF_ERROR(read_token(root["eos_token"], &config.eos_token));
  SLUICE_RETURN_IF_ERROR(read_template(root["chat_template"], &config.chat_template));
  return config;
}

}  // namespace sluice
