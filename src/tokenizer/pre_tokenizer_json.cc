// The section "pre_tokenizer" of a tokenizer.json.
#include <algorithm>

#include "tokenizer/regex_dialect.h"
#include "tokenizer/tokenizer_json.h"

namespace sluice {
namespace {

// What ByteLevel splits by when use_regex is true (GPT-2's pattern).
constexpr std::string_view kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Stages so far, and whether the closing ByteLevel was seen.
struct Pipeline {
  std::vector<PreTokenizerStage> stages;
  bool closed = false;
};

Result<SplitBehavior> parse_behavior(const JsonField& field) {
  SLUICE_ASSIGN_OR_RETURN(const std::string text, field.string());
  if (text == "Isolated") return SplitBehavior::kIsolated;
  if (text == "Removed") return SplitBehavior::kRemoved;
  if (text == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (text == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (text == "Contiguous") return SplitBehavior::kContiguous;
  return field.unsupported("one of Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous");
}

Status add_split(const JsonField& field, Pipeline* pipeline) {
  SLUICE_RETURN_IF_ERROR(field.expect_object({"type", "pattern", "behavior", "invert"}));
  PreTokenizerStage stage;
  SLUICE_ASSIGN_OR_RETURN(stage.behavior, parse_behavior(field["behavior"]));
  SLUICE_ASSIGN_OR_RETURN(stage.invert, field["invert"].boolean(false));
  const JsonField pattern = field["pattern"];
  SLUICE_RETURN_IF_ERROR(pattern.expect_object({"Regex", "String"}));
  if (pattern.size() != 1) return pattern.wrong("one of Regex, String");
  if (!pattern["Regex"].empty()) {
    stage.path = pattern["Regex"].path();
    SLUICE_ASSIGN_OR_RETURN(const std::string text, pattern["Regex"].string());
    SLUICE_ASSIGN_OR_RETURN(stage.pattern, regex_to_pcre2(text, stage.path));
  } else {
    stage.path = pattern["String"].path();
    SLUICE_ASSIGN_OR_RETURN(const std::string text, pattern["String"].string());
    stage.pattern = literal_to_pcre2(text);
  }
  pipeline->stages.push_back(std::move(stage));
  return {};
}

Status add_digits(const JsonField& field, Pipeline* pipeline) {
  SLUICE_RETURN_IF_ERROR(field.expect_object({"type", "individual_digits"}));
  SLUICE_ASSIGN_OR_RETURN(const bool individual, field["individual_digits"].boolean(false));
  PreTokenizerStage stage;
  stage.path = field.path();
  SLUICE_ASSIGN_OR_RETURN(stage.pattern, regex_to_pcre2(individual ? R"(\p{N})" : R"(\p{N}+)", stage.path));
  pipeline->stages.push_back(std::move(stage));
  return {};
}

// Closes the pipeline: what would follow sees the byte alphabet instead of the text, which nobody does.
Status add_byte_level(const JsonField& field, Pipeline* pipeline) {
  SLUICE_RETURN_IF_ERROR(field.expect_object({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  SLUICE_ASSIGN_OR_RETURN(const bool prefix_space, field["add_prefix_space"].boolean(true));
  SLUICE_ASSIGN_OR_RETURN(const bool use_regex, field["use_regex"].boolean(true));
  if (prefix_space) {
    PreTokenizerStage stage;
    stage.kind = PreTokenizerStage::Kind::kPrefixSpace;
    pipeline->stages.push_back(std::move(stage));
  }
  if (use_regex) {
    PreTokenizerStage stage;
    stage.path = field.path();
    SLUICE_ASSIGN_OR_RETURN(stage.pattern, regex_to_pcre2(kByteLevelPattern, stage.path));
    pipeline->stages.push_back(std::move(stage));
  }
  pipeline->closed = true;
  return {};
}

Status add_stage(const JsonField& field, Pipeline* pipeline) {
  if (pipeline->closed) return field.unsupported("nothing after ByteLevel");
  const JsonField type = field["type"];
  SLUICE_ASSIGN_OR_RETURN(const std::string name, type.string());
  if (name == "Split") return add_split(field, pipeline);
  if (name == "Digits") return add_digits(field, pipeline);
  if (name == "ByteLevel") return add_byte_level(field, pipeline);
  return type.unsupported("one of Split, Digits, ByteLevel");
}

}  // namespace

Result<std::vector<PreTokenizerStage>> parse_pre_tokenizer(const JsonField& section) {
  Pipeline pipeline;
  const JsonField type = section["type"];
  SLUICE_ASSIGN_OR_RETURN(const std::string name, type.string());
  if (name == "Sequence") {
    SLUICE_RETURN_IF_ERROR(section.expect_object({"type", "pretokenizers"}));
    const JsonField list = section["pretokenizers"];
    SLUICE_RETURN_IF_ERROR(list.expect_array());
    for (size_t i = 0; i < list.size(); ++i) SLUICE_RETURN_IF_ERROR(add_stage(list[i], &pipeline));
  } else if (name == "ByteLevel") {
    SLUICE_RETURN_IF_ERROR(add_stage(section, &pipeline));
  } else {
    return type.unsupported("Sequence or ByteLevel");
  }
  if (!pipeline.closed) return section.unsupported("a pipeline that ends with ByteLevel");
  return std::move(pipeline.stages);
}

}  // namespace sluice
