// The added tokens of a tokenizer.json: texts with an id of their own, cut out of a text before it is split and
// merged. Immutable after make(); any thread.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sluice/status.h"
#include "sluice/types.h"

#include "tokenizer/tokenizer_spec.h"

namespace sluice {

enum class SpecialTokens : uint8_t;

class AddedTokens {
 public:
  static constexpr TokenId kOrdinary = -1;

  // A run of ordinary text (id == kOrdinary), or one added token.
  struct Segment {
    std::string_view text;
    TokenId id = kOrdinary;
  };

  // INVALID_ARGUMENT if two tokens share a text or an id.
  static Result<AddedTokens> make(std::vector<AddedTokenSpec> tokens);

  // Cuts `text` into segments, none of them empty, leftmost match first and the longest there. Two passes, as the
  // file format has it: tokens with normalized=false over the whole text, then the others over what is left.
  std::vector<Segment> split(std::string_view text, SpecialTokens special) const;

  const AddedTokenSpec* find(std::string_view content) const;  // null: none
  const AddedTokenSpec* find(TokenId id) const;
  const std::vector<AddedTokenSpec>& tokens() const { return tokens_; }

 private:
  // A trie over bytes; node 0 is the root. Edges of a node are few (tokens share long prefixes), so they are searched
  // one by one.
  struct Node {
    std::vector<std::pair<char, int32_t>> edges;
    int32_t token = -1;  // index into tokens_: a token ends here
  };
  struct Trie {
    std::vector<Node> nodes = std::vector<Node>(1);
    bool starts[256] = {};  // bytes that begin a token
  };

  static int32_t step(const Trie& trie, int32_t node, char byte);  // -1: no edge
  static void insert(Trie* trie, std::string_view content, int32_t token);
  int32_t longest_at(const Trie& trie, std::string_view text) const;  // -1: none; else index into tokens_
  void cut(const Trie& trie, std::string_view text, SpecialTokens special, std::vector<Segment>* out) const;

  std::vector<AddedTokenSpec> tokens_;
  std::unordered_map<std::string, size_t> by_content_;
  std::unordered_map<TokenId, size_t> by_id_;
  std::vector<bool> is_control_;  // [tokens]
  Trie first_pass_;
  Trie second_pass_;
};

}  // namespace sluice
