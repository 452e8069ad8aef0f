// What a tokenizer.json says, as plain data: the border between the file format and the machinery. Written by
// tokenizer_json.cc, read by everything else once at load.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/types.h"

namespace sluice {

// Ids lie in [0, kMaxVocabSize): tables are indexed by id, so a stray huge id must not become a huge table. The
// largest public vocabularies have a quarter million entries.
constexpr TokenId kMaxVocabSize = 1 << 22;

struct AddedTokenSpec {
  std::string content;  // not empty
  TokenId id = 0;
  bool special = false;     // skipped by decode(skip_special)
  bool normalized = false;  // matched in a second pass, after the others (only with no normalizer, so only the order tells)
};

// What becomes of the matches of a split.
enum class SplitBehavior : uint8_t {
  kIsolated,            // matches and gaps are pieces
  kRemoved,             // only gaps are
  kMergedWithPrevious,  // a match joins the gap before it
  kMergedWithNext,      // a match joins the gap behind it
  kContiguous,          // neighbouring matches are one piece
};

struct PreTokenizerStage {
  enum class Kind : uint8_t { kSplit, kPrefixSpace } kind = Kind::kSplit;
  // Only for kSplit:
  std::string pattern;  // PCRE2
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // gaps count as matches and matches as gaps
  std::string path;     // names the stage in errors
};

struct TokenizerSpec {
  std::vector<std::pair<std::string, TokenId>> vocab;       // file spelling (see byte_level.h)
  std::vector<std::pair<std::string, std::string>> merges;  // best first
  bool ignore_merges = false;                               // a piece that is an entry is that entry
  std::vector<AddedTokenSpec> added_tokens;
  bool nfc = false;  // texts are put into normal form C before they are split
  std::vector<PreTokenizerStage> stages;
  std::optional<std::string> template_bos;  // what TemplateProcessing puts first
};

}  // namespace sluice
