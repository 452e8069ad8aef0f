// What one page of the paged cache holds. The model declares groups; the page pool, prefix tree, tiers and
// `inspect` work on groups and know no architecture.
//
//   page p:  | group 0: layer a, layer b, ... | group 1: ... |      one contiguous blob of bytes_per_page()
//   layer:   | entry of position 64p | 64p+1 | ... | 64p+63 |       (tokens_per_entry = 1)
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

// Token positions a page covers. 64 fits the attention tile, divides every quantisation group in use, and keeps the
// waste of a half-filled last page below 5 % from 700 tokens on.
constexpr int32_t kPageTokens = 64;

struct CacheGroup {
  std::string name;              // "latent"
  std::vector<int32_t> layers;   // model layers that own such entries, ascending
  int64_t bytes_per_entry = 0;   // one layer's entry
  int32_t tokens_per_entry = 1;  // tokens that one entry stands for
  bool rewindable = true;        // may be cut back to any position (else only at page borders)

  int64_t bytes_per_layer() const { return bytes_per_entry * (kPageTokens / tokens_per_entry); }  // of a page
  int64_t bytes_per_page() const { return static_cast<int64_t>(layers.size()) * bytes_per_layer(); }
};

struct KvLayout {
  std::vector<CacheGroup> groups;

  int64_t bytes_per_page() const {
    int64_t bytes = 0;
    for (const CacheGroup& group : groups) bytes += group.bytes_per_page();
    return bytes;
  }
  // Where in a page the entries of a group's layer begin; `slot` counts within CacheGroup::layers.
  int64_t offset_of(size_t group, int64_t slot) const {
    int64_t bytes = slot * groups[group].bytes_per_layer();
    for (size_t before = 0; before < group; ++before) bytes += groups[before].bytes_per_page();
    return bytes;
  }
  // Whether a sequence may be cut back inside a page.
  bool rewindable() const {
    for (const CacheGroup& group : groups)
      if (!group.rewindable && !group.layers.empty()) return false;
    return true;
  }
  // All layers; what `inspect` prints.
  int64_t bytes_per_token() const { return bytes_per_page() / kPageTokens; }
};

}  // namespace sluice
