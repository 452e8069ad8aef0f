// Byte-pair merging: one piece of text to token ids. Immutable after make(); any thread.
//
// The rule: start from single bytes; as long as any neighbouring pair has a merge, apply the merge of the best rank,
// the leftmost of equals. Two ways to do that, with the same result:
//   short pieces   an array, searched for the best pair after each merge: O(n^2), tiny n, no allocation
//   long pieces    a linked list and a heap of (rank, position): O(n log n)
#pragma once

#include <string_view>
#include <vector>

#include "sluice/status.h"

#include "tokenizer/vocabulary.h"

namespace sluice {

class Bpe {
 public:
  // `vocabulary` must outlive it. INVALID_ARGUMENT if a merge names or makes something that is no entry.
  static Result<Bpe> make(const Vocabulary* vocabulary, const TokenizerSpec& spec);

  // Appends the ids of `piece` (any bytes that have an entry).
  void append(std::string_view piece, std::vector<TokenId>* ids) const;

 private:
  static constexpr uint32_t kNoMerge = UINT32_MAX;

  struct Merge {
    uint32_t rank = kNoMerge;  // lower first
    TokenId result = 0;
  };
  struct PairSlot {
    uint64_t pair = kEmptyPair;
    Merge merge;
  };
  static constexpr uint64_t kEmptyPair = UINT64_MAX;
  struct Node;

  static uint64_t pair_of(TokenId left, TokenId right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void put(uint64_t pair, Merge merge);
  const Merge& find(TokenId left, TokenId right) const;

  void find_whole_entries();
  void append_short(std::string_view piece, std::vector<TokenId>* ids) const;
  void append_long(std::string_view piece, std::vector<TokenId>* ids) const;
  void merge_all(std::vector<Node>* nodes) const;

  const Vocabulary* vocabulary_ = nullptr;
  std::vector<PairSlot> pairs_;    // open addressing, power of two, at most half full
  std::vector<Merge> byte_pairs_;  // [256 * 256] by bytes: the first round of lookups, which is most of them
  // [vocabulary] merging the entry's bytes gives the entry itself, so that a piece equal to it needs no merging. Not
  // true of all: some entries are only reached from other starts.
  std::vector<bool> is_whole_;
};

}  // namespace sluice
