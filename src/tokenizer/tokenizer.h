// Byte-level BPE as a Hugging Face tokenizer.json describes it: text to token ids and back. Owns vocabulary, merges,
// added tokens and split pipeline; renders no chats and knows no model. Loaded once by the composition root, then
// immutable: every method may be called by any thread at any time.
//
//   text -> added tokens cut out -> pre-tokenizer stages -> pieces -> byte-pair merges -> ids
//           added_tokens.h          pre_tokenizer.h                  bpe.h
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/prompt.h"
#include "sluice/status.h"
#include "sluice/types.h"

namespace sluice {

// How added tokens that are written out in a text ("<｜User｜>") are treated.
enum class SpecialTokens : uint8_t {
  kParse,   // become their ids (templates, tools)
  kAsText,  // stay ordinary text, if they are special or look like control marks (brackets, bars): a user's own words
            // must not forge roles. Added tokens that are plain letters still become their ids.
};

class Tokenizer {
 public:
  // Reads DIR/tokenizer.json and, where present, DIR/tokenizer_config.json. Errors name file and key: NOT_FOUND for a
  // file, INVALID_ARGUMENT for broken content, FAILED_PRECONDITION for a feature that we do not have.
  static Result<Tokenizer> load(const std::string& directory);
  // From the files' contents; `config_json` may be empty.
  static Result<Tokenizer> parse(std::string_view tokenizer_json, std::string_view config_json);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Ids of `text`; adds the begin-of-sequence token first if `add_bos` and the tokenizer has one. `text` must be valid
  // UTF-8 (INVALID_ARGUMENT otherwise, with the byte offset). Time is O(n log n) in the text's bytes.
  Result<std::vector<TokenId>> encode(std::string_view text, bool add_bos,
                                      SpecialTokens special = SpecialTokens::kParse) const;

  // Ids of a chat prompt: special pieces become their one id, the rest is ordinary text whatever it says (kAsText).
  // FAILED_PRECONDITION if the vocabulary lacks a special token.
  Result<std::vector<TokenId>> encode(const std::vector<PromptPiece>& pieces) const;

  // Text of `ids`; invalid UTF-8 becomes U+FFFD, one for each maximal subpart. `skip_special` leaves out the tokens
  // that the file marks as special. Ids without a token are INVALID_ARGUMENT.
  Result<std::string> decode(const std::vector<TokenId>& ids, bool skip_special = false) const;

  // The raw bytes of one token (special tokens: their text). Empty for ids without a token.
  std::string_view token_bytes(TokenId id) const;
  bool is_special(TokenId id) const;                           // marked as special by the file
  std::optional<TokenId> id_of(std::string_view bytes) const;  // of an added token's text, else of a vocabulary entry

  int32_t vocab_size() const;  // one past the largest id
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  bool adds_bos() const;                     // tokenizer_config.json: add_bos_token; else whether a template adds one
  const std::string& chat_template() const;  // tokenizer_config.json: chat_template, or empty

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns one sequence's ids into text piece by piece and never emits half a UTF-8 character: bytes that may still
// become one are held back. Invalid bytes become U+FFFD once it is certain, so that all pushes and the flush together
// are exactly Tokenizer::decode(). Ids without a token (padded rows of the head) are empty. One thread at a time; cheap
// to make. The tokenizer must outlive it.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  std::string push(TokenId id);  // text that became certain, possibly empty
  std::string flush();           // at the end: what was held back, as U+FFFD

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // the start of a character, at most 3 bytes
};

}  // namespace sluice
