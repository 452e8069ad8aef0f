#include "tokenizer/tokenizer.h"
#include "tokenizer/utf8.h"

namespace sluice {

std::string Detokenizer::push(TokenId id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  std::string bytes = std::move(pending_);
  pending_.clear();
  bytes += tokenizer_->token_bytes(id);
  std::string_view rest = bytes;
  std::string text;
  while (!rest.empty()) {
    const size_t valid = valid_utf8_prefix(rest);
    text += rest.substr(0, valid);
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Utf8Step step = utf8_step(rest);
    if (step.kind == Utf8Kind::kIncomplete) {
      pending_ = rest;
      break;
    }
    text += kReplacementCharacter;
    rest.remove_prefix(step.length);
  }
  return text;
}

std::string Detokenizer::flush() {
  if (pending_.empty()) return {};
  pending_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace sluice
