#include "tokenizer/added_tokens.h"

#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

bool begins_with_any(std::string_view text, std::initializer_list<std::string_view> marks) {
  for (const std::string_view mark : marks)
    if (text.starts_with(mark)) return true;
  return false;
}

bool ends_with_any(std::string_view text, std::initializer_list<std::string_view> marks) {
  for (const std::string_view mark : marks)
    if (text.ends_with(mark)) return true;
  return false;
}

// Tokens that structure a prompt and that a user's words must not forge. The file's flag does not say it: V3 marks
// neither its role tokens nor its tool tokens as special, and V2's added tokens include plain letters, which belong to
// ordinary text. So the shape decides as well: a text in brackets or bars (U+FF5C is DeepSeek's wide bar).
bool is_control(const AddedTokenSpec& token) {
  return token.special || (begins_with_any(token.content, {"<", "[", "|", "\uFF5C"}) &&
                           ends_with_any(token.content, {">", "]", "|", "\uFF5C"}));
}

}  // namespace

Result<AddedTokens> AddedTokens::make(std::vector<AddedTokenSpec> tokens) {
  AddedTokens result;
  result.tokens_ = std::move(tokens);
  for (size_t i = 0; i < result.tokens_.size(); ++i) {
    const AddedTokenSpec& token = result.tokens_[i];
    if (!result.by_content_.emplace(token.content, i).second)
      return invalid_argument(
          "tokenizer.json: added_tokens[{}].content: expected a text of its own, found the one of "
          "added_tokens[{}]",
          i, result.by_content_[token.content]);
    if (!result.by_id_.emplace(token.id, i).second)
      return invalid_argument(
          "tokenizer.json: added_tokens[{}].id: expected an id of its own, found the one of "
          "added_tokens[{}]",
          i, result.by_id_[token.id]);
    result.is_control_.push_back(is_control(token));
    insert(token.normalized ? &result.second_pass_ : &result.first_pass_, token.content, static_cast<int32_t>(i));
  }
  return result;
}

void AddedTokens::insert(Trie* trie, std::string_view content, int32_t token) {
  trie->starts[static_cast<uint8_t>(content[0])] = true;
  int32_t node = 0;
  for (const char byte : content) {
    int32_t next = step(*trie, node, byte);
    if (next < 0) {
      next = static_cast<int32_t>(trie->nodes.size());
      trie->nodes.emplace_back();
      trie->nodes[static_cast<size_t>(node)].edges.emplace_back(byte, next);
    }
    node = next;
  }
  trie->nodes[static_cast<size_t>(node)].token = token;
}

int32_t AddedTokens::step(const Trie& trie, int32_t node, char byte) {
  for (const auto& [label, next] : trie.nodes[static_cast<size_t>(node)].edges)
    if (label == byte) return next;
  return -1;
}

int32_t AddedTokens::longest_at(const Trie& trie, std::string_view text) const {
  int32_t longest = -1;
  int32_t node = 0;
  for (const char byte : text) {
    node = step(trie, node, byte);
    if (node < 0) break;
    const int32_t token = trie.nodes[static_cast<size_t>(node)].token;
    if (token >= 0) longest = token;
  }
  return longest;
}

void AddedTokens::cut(const Trie& trie, std::string_view text, SpecialTokens special, std::vector<Segment>* out) const {
  size_t ordinary_begin = 0;
  const auto emit_ordinary = [&](size_t end) {
    if (end > ordinary_begin) out->push_back({text.substr(ordinary_begin, end - ordinary_begin), kOrdinary});
  };
  for (size_t position = 0; position < text.size();) {
    const int32_t token =
        trie.starts[static_cast<uint8_t>(text[position])] ? longest_at(trie, text.substr(position)) : -1;
    if (token < 0) {
      ++position;
      continue;
    }
    const AddedTokenSpec& match = tokens_[static_cast<size_t>(token)];
    const size_t end = position + match.content.size();
    if (special == SpecialTokens::kParse || !is_control_[static_cast<size_t>(token)]) {
      emit_ordinary(position);
      out->push_back({text.substr(position, match.content.size()), match.id});
      ordinary_begin = end;
    }
    position = end;
  }
  emit_ordinary(text.size());
}

std::vector<AddedTokens::Segment> AddedTokens::split(std::string_view text, SpecialTokens special) const {
  std::vector<Segment> first;
  cut(first_pass_, text, special, &first);
  std::vector<Segment> segments;
  for (const Segment& segment : first) {
    if (segment.id == kOrdinary) {
      cut(second_pass_, segment.text, special, &segments);
    } else {
      segments.push_back(segment);
    }
  }
  return segments;
}

const AddedTokenSpec* AddedTokens::find(std::string_view content) const {
  const auto place = by_content_.find(std::string(content));
  return place == by_content_.end() ? nullptr : &tokens_[place->second];
}

const AddedTokenSpec* AddedTokens::find(TokenId id) const {
  const auto place = by_id_.find(id);
  return place == by_id_.end() ? nullptr : &tokens_[place->second];
}

}  // namespace sluice
