#include "tokenizer/tokenizer_json.h"

namespace sluice {
namespace {

Status parse_added_tokens(const JsonField& list, TokenizerSpec* spec) {
  if (list.empty()) return {};
  SLUICE_RETURN_IF_ERROR(list.expect_array());
  for (size_t i = 0; i < list.size(); ++i) {
    const JsonField field = list[i];
    SLUICE_RETURN_IF_ERROR(
        field.expect_object({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    SLUICE_RETURN_IF_ERROR(field["single_word"].expect_false());
    SLUICE_RETURN_IF_ERROR(field["lstrip"].expect_false());
    SLUICE_RETURN_IF_ERROR(field["rstrip"].expect_false());
    AddedTokenSpec token;
    SLUICE_ASSIGN_OR_RETURN(token.content, field["content"].string());
    if (token.content.empty()) return field["content"].wrong("a text that is not empty");
    SLUICE_ASSIGN_OR_RETURN(const int64_t id, field["id"].integer(0, kMaxVocabSize));
    token.id = static_cast<TokenId>(id);
    SLUICE_ASSIGN_OR_RETURN(token.special, field["special"].boolean(false));
    SLUICE_ASSIGN_OR_RETURN(token.normalized, field["normalized"].boolean(!token.special));
    spec->added_tokens.push_back(std::move(token));
  }
  return {};
}

// None, or normal form C (Qwen's); alone or as a sequence of one.
Status parse_normalizer(const JsonField& section, TokenizerSpec* spec, bool nested = false) {
  if (section.empty()) return {};
  const JsonField type = section["type"];
  SLUICE_ASSIGN_OR_RETURN(const std::string name, type.string());
  if (name == "NFC") {
    spec->nfc = true;
    return section.expect_object({"type"});
  }
  if (name != "Sequence" || nested) return type.unsupported("NFC or Sequence");
  SLUICE_RETURN_IF_ERROR(section.expect_object({"type", "normalizers"}));
  const JsonField list = section["normalizers"];
  SLUICE_RETURN_IF_ERROR(list.expect_array());
  if (list.size() > 1) return list.unsupported("at most one");
  return list.size() == 0 ? Status() : parse_normalizer(list[0], spec, true);
}

// An added token that is looked for in the normalised text would have to be normalised, too.
Status check_added_tokens(const JsonField& list, const TokenizerSpec& spec) {
  for (size_t i = 0; spec.nfc && i < spec.added_tokens.size(); ++i)
    if (spec.added_tokens[i].normalized) return list[i]["normalized"].unsupported("false, with a normalizer");
  return {};
}

Status check_decoder(const JsonField& section) {
  SLUICE_RETURN_IF_ERROR(section["type"].expect_string("ByteLevel"));
  // These three only shape offsets and encoding, never the text.
  return section.expect_object({"type", "add_prefix_space", "trim_offsets", "use_regex"});
}

// A template that puts at most one special token in front of the text and nothing behind it.
Status parse_template(const JsonField& section, TokenizerSpec* spec) {
  SLUICE_RETURN_IF_ERROR(section.expect_object({"type", "single", "pair", "special_tokens"}));
  const JsonField single = section["single"];
  SLUICE_RETURN_IF_ERROR(single.expect_array());
  const size_t text_at = single.size() == 0 ? 0 : single.size() - 1;
  if (text_at > 1 || single[text_at]["Sequence"].empty())
    return single.unsupported("[SpecialToken, Sequence] or [Sequence]");
  if (text_at == 0) return {};
  SLUICE_ASSIGN_OR_RETURN(std::string bos, single[0]["SpecialToken"]["id"].string());
  spec->template_bos = std::move(bos);
  return {};
}

Status parse_post_processor(const JsonField& section, TokenizerSpec* spec, bool nested = false) {
  if (section.empty()) return {};
  const JsonField type = section["type"];
  SLUICE_ASSIGN_OR_RETURN(const std::string name, type.string());
  if (name == "ByteLevel")  // trims offsets, which we do not report
    return section.expect_object({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  if (name == "TemplateProcessing") return parse_template(section, spec);
  if (name != "Sequence" || nested) return type.unsupported("one of ByteLevel, TemplateProcessing, Sequence");
  SLUICE_RETURN_IF_ERROR(section.expect_object({"type", "processors"}));
  const JsonField list = section["processors"];
  SLUICE_RETURN_IF_ERROR(list.expect_array());
  for (size_t i = 0; i < list.size(); ++i) SLUICE_RETURN_IF_ERROR(parse_post_processor(list[i], spec, true));
  return {};
}

Status parse_vocab(const JsonField& section, TokenizerSpec* spec) {
  if (section.empty() || !section.json().is_object()) return section.wrong("an object");
  spec->vocab.reserve(section.size());
  for (const auto& [spelling, id] : section.json().items()) {
    // The path is made for complaints only: 128,000 of them would cost more than the parse.
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(kMaxVocabSize))
      return section[spelling].wrong(fmt::format("an integer in [0, {})", kMaxVocabSize));
    spec->vocab.emplace_back(spelling, id.get<TokenId>());
  }
  return {};
}

// "a b" (old form; the space cannot be part of a spelling) or ["a", "b"].
bool parse_merge(const nlohmann::json& merge, std::pair<std::string, std::string>* parts) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    *parts = {merge[0].get<std::string>(), merge[1].get<std::string>()};
    return true;
  }
  if (!merge.is_string()) return false;
  const std::string& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return false;
  *parts = {text.substr(0, space), text.substr(space + 1)};
  return true;
}

Status parse_merges(const JsonField& section, TokenizerSpec* spec) {
  SLUICE_RETURN_IF_ERROR(section.expect_array());
  spec->merges.resize(section.size());
  for (size_t i = 0; i < section.size(); ++i) {
    if (!parse_merge(section.json()[i], &spec->merges[i])) return section[i].wrong("\"LEFT RIGHT\" or [LEFT, RIGHT]");
  }
  return {};
}

Status parse_model(const JsonField& section, TokenizerSpec* spec) {
  SLUICE_RETURN_IF_ERROR(section["type"].expect_string("BPE"));
  SLUICE_RETURN_IF_ERROR(
      section.expect_object({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                             "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"}));
  SLUICE_RETURN_IF_ERROR(section["dropout"].expect_null());
  SLUICE_RETURN_IF_ERROR(section["unk_token"].expect_null());
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const JsonField field = section[key];
    if (!field.empty()) SLUICE_RETURN_IF_ERROR(field.expect_string(""));
  }
  SLUICE_RETURN_IF_ERROR(section["byte_fallback"].expect_false());  // fuse_unk: there is no unknown token to fuse
  SLUICE_ASSIGN_OR_RETURN(spec->ignore_merges, section["ignore_merges"].boolean(false));
  SLUICE_RETURN_IF_ERROR(parse_vocab(section["vocab"], spec));
  return parse_merges(section["merges"], spec);
}

}  // namespace

Result<TokenizerSpec> parse_tokenizer_json(std::string_view text) {
  const std::string file = "tokenizer.json";
  SLUICE_ASSIGN_OR_RETURN(const nlohmann::json document, parse_json(text, file));
  const JsonField root(&document, file);
  SLUICE_RETURN_IF_ERROR(root.expect_object({"version", "truncation", "padding", "added_tokens", "normalizer",
                                             "pre_tokenizer", "post_processor", "decoder", "model"}));
  SLUICE_RETURN_IF_ERROR(root["version"].expect_string("1.0"));
  SLUICE_RETURN_IF_ERROR(root["truncation"].expect_null());
  SLUICE_RETURN_IF_ERROR(root["padding"].expect_null());
  TokenizerSpec spec;
  SLUICE_RETURN_IF_ERROR(parse_added_tokens(root["added_tokens"], &spec));
  SLUICE_RETURN_IF_ERROR(parse_normalizer(root["normalizer"], &spec));
  SLUICE_RETURN_IF_ERROR(check_added_tokens(root["added_tokens"], spec));
  SLUICE_ASSIGN_OR_RETURN(spec.stages, parse_pre_tokenizer(root["pre_tokenizer"]));
  SLUICE_RETURN_IF_ERROR(parse_post_processor(root["post_processor"], &spec));
  SLUICE_RETURN_IF_ERROR(check_decoder(root["decoder"]));
  SLUICE_RETURN_IF_ERROR(parse_model(root["model"], &spec));
  return spec;
}

}  // namespace sluice
