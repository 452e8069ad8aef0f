// Which bytes each token id stands for, and back. Immutable after make(); any thread. Knows no merges and no flags.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/status.h"
#include "sluice/types.h"

#include "tokenizer/tokenizer_spec.h"

namespace sluice {

class Vocabulary {
 public:
  // INVALID_ARGUMENT if two entries share an id, an added token's id belongs to another entry, or a byte that occurs
  // in UTF-8 has no entry (0xC0, 0xC1 and 0xF5 to 0xFF never do, and V2 leaves them out).
  static Result<Vocabulary> make(const TokenizerSpec& spec);

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }  // one past the largest id
  bool contains(TokenId id) const { return id >= 0 && id < size() && entries_[static_cast<size_t>(id)].exists; }
  std::string_view bytes(TokenId id) const {  // empty for ids without a token
    if (!contains(id)) return {};
    const Entry& entry = entries_[static_cast<size_t>(id)];
    return std::string_view(arena_).substr(entry.offset, entry.length);
  }

  // The model's entry with these bytes, or kNone. Added tokens are not searched.
  static constexpr TokenId kNone = -1;
  TokenId find(std::string_view bytes) const;
  TokenId of_byte(uint8_t byte) const { return of_byte_[byte]; }

 private:
  struct Entry {
    uint32_t offset = 0;
    uint32_t length = 0;
    bool exists = false;
  };
  // Open addressing, at most half full: one probe mostly, and the hash's upper half saves the look into the arena.
  struct Slot {
    uint32_t hash = 0;
    TokenId id = kNone;
  };

  Status add_token(const AddedTokenSpec& token);
  void put(TokenId id, std::string_view bytes);
  void index(const std::vector<TokenId>& ids);

  std::string arena_;
  std::vector<Entry> entries_;  // [size]
  std::vector<Slot> slots_;     // power of two
  std::array<TokenId, 256> of_byte_{};
};

}  // namespace sluice
