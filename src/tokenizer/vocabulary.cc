#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>

#include "tokenizer/byte_level.h"
#include "tokenizer/hash.h"

namespace sluice {
namespace {

constexpr size_t kMaxArena = 1u << 30;  // offsets are 32 bits; real vocabularies take a megabyte

bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

Result<Vocabulary> Vocabulary::make(const TokenizerSpec& spec) {
  Vocabulary vocabulary;
  TokenId largest = -1;
  size_t total = 0;
  for (const auto& [spelling, id] : spec.vocab) {
    largest = std::max(largest, id);
    total += spelling.size();
  }
  for (const AddedTokenSpec& token : spec.added_tokens) {
    largest = std::max(largest, token.id);
    total += token.content.size();
  }
  if (total > kMaxArena) return invalid_argument("tokenizer.json: expected at most 1 GiB of tokens, found {}", total);
  vocabulary.entries_.resize(static_cast<size_t>(largest + 1));
  vocabulary.of_byte_.fill(kNone);

  std::vector<TokenId> searchable;
  for (const auto& [spelling, id] : spec.vocab) {
    if (vocabulary.contains(id))
      return invalid_argument("tokenizer.json: model.vocab: expected one entry with id {}, found two", id);
    std::string bytes;
    const bool in_alphabet = bytes_of_spelling(spelling, &bytes) && !bytes.empty();
    vocabulary.put(id, in_alphabet ? bytes : spelling);
    if (in_alphabet) searchable.push_back(id);
  }
  vocabulary.index(searchable);
  for (const AddedTokenSpec& token : spec.added_tokens) SLUICE_RETURN_IF_ERROR(vocabulary.add_token(token));
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    vocabulary.of_byte_[static_cast<size_t>(byte)] = vocabulary.find({&text, 1});
    if (occurs_in_utf8(byte) && vocabulary.of_byte_[static_cast<size_t>(byte)] == kNone)
      return invalid_argument(
          "tokenizer.json: model.vocab: expected an entry for every byte, found none for 0x{:02X} "
          "(\"{}\")",
          byte, spelling_of_byte(static_cast<uint8_t>(byte)));
  }
  return vocabulary;
}

// An added token may also be an entry of the model, under the same id. Its bytes follow the rule of the file format's
// ByteLevel decoder: read through the byte alphabet where it can be, else the text itself.
Status Vocabulary::add_token(const AddedTokenSpec& token) {
  std::string bytes;
  if (!bytes_of_spelling(token.content, &bytes)) bytes = token.content;
  const TokenId entry = find(bytes);
  if (entry != kNone && entry != token.id)
    return invalid_argument("tokenizer.json: added_tokens: expected id {} for \"{}\", as in model.vocab, found {}",
                            entry, token.content, token.id);
  if (!contains(token.id)) {
    put(token.id, bytes);
    return {};
  }
  if (this->bytes(token.id) == bytes) return {};
  return invalid_argument(
      "tokenizer.json: added_tokens: expected an id of its own for \"{}\", found {}, which "
      "model.vocab gives to another entry",
      token.content, token.id);
}

void Vocabulary::put(TokenId id, std::string_view bytes) {
  entries_[static_cast<size_t>(id)] = {static_cast<uint32_t>(arena_.size()), static_cast<uint32_t>(bytes.size()), true};
  arena_ += bytes;
}

void Vocabulary::index(const std::vector<TokenId>& ids) {
  slots_.resize(std::bit_ceil(2 * ids.size() + 1));
  for (const TokenId id : ids) {
    const uint64_t hash = hash_bytes(bytes(id));
    size_t place = hash & (slots_.size() - 1);
    while (slots_[place].id != kNone) place = (place + 1) & (slots_.size() - 1);
    slots_[place] = {static_cast<uint32_t>(hash >> 32), id};
  }
}

TokenId Vocabulary::find(std::string_view wanted) const {
  const uint64_t hash = hash_bytes(wanted);
  for (size_t place = hash & (slots_.size() - 1);; place = (place + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[place];
    if (slot.id == kNone) return kNone;
    if (slot.hash == static_cast<uint32_t>(hash >> 32) && bytes(slot.id) == wanted) return slot.id;
  }
}

}  // namespace sluice
