// The pre-tokenizer: cuts a text into the pieces inside which byte pairs merge. A pipeline; each stage splits every
// piece of the stage before again, and sees nothing beyond the piece's ends. Immutable after make(); any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "sluice/status.h"

#include "tokenizer/regex.h"
#include "tokenizer/tokenizer_spec.h"

namespace sluice {

// Working memory and result of one thread's splits, reused from text to text.
class PieceBuffer {
 public:
  // Views into the text last split, or into this buffer; good until the next split.
  const std::vector<std::string_view>& pieces() const { return pieces_; }

 private:
  friend class PreTokenizer;
  std::vector<std::string_view> pieces_;
  std::vector<std::string_view> previous_;
  std::string prefixed_;  // the text again, where a stage puts spaces in front of pieces
  RegexScratch scratch_;
};

class PreTokenizer {
 public:
  static Result<PreTokenizer> make(std::vector<PreTokenizerStage> stages);

  // `text` is well-formed UTF-8. The pieces are in order and not empty. RESOURCE_EXHAUSTED as Regex::find has it.
  Status split(std::string_view text, PieceBuffer* buffer) const;

 private:
  struct Stage {
    PreTokenizerStage rule;
    std::vector<Regex> regex;  // one, or none for kPrefixSpace
  };

  std::vector<Stage> stages_;
};

}  // namespace sluice
