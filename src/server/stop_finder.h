// Finds stop strings in a text that comes piece by piece. Owns the held-back tail; knows no tokens. One finder per
// choice, used by the detokeniser thread.
//
// A stop string counts when its last byte arrives, and of several that end at the same byte the longest counts. That
// rule looks at bytes only, so the answer is the same however the text was cut into pieces.
//
//   text        ... once upon a ti|me
//   stop "time"                ^^^           held back until it is certain; "ti" is a prefix of the stop string
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

class StopFinder {
 public:
  // None of `stops` is empty.
  explicit StopFinder(const std::vector<std::string>& stops);

  // Appends to `certain` what can no longer belong to a stop string. Returns the index of the stop string that is
  // complete now: the text before it has been appended, it and the rest of `piece` are dropped.
  std::optional<size_t> push(std::string_view piece, std::string* certain);

  // The text ended: what was held back is ordinary text.
  void flush(std::string* certain);

 private:
  // Knuth-Morris-Pratt: `matched` bytes of `text` are a suffix of what came so far; failure[i] is the longest proper
  // prefix of text[0, i+1) that is a suffix of it. Constant work per byte and pattern, whatever the client sends.
  struct Pattern {
    std::string text;
    std::vector<uint32_t> failure;  // [text.size()]
    size_t matched = 0;

    bool advance(char byte);  // true when complete
  };

  std::vector<Pattern> patterns_;
  std::string held_;
};

}  // namespace sluice
