#include "tokenizer/nfc.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "tokenizer/nfc_tables.h"
#include "tokenizer/utf8.h"

namespace sluice {

namespace {

// Syllables follow from their parts (Unicode 3.12): 19 leads x 21 vowels x (27 tails or none).
constexpr uint32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr uint32_t kNumLeads = 19, kNumVowels = 21, kNumTails = 28, kNumSyllables = kNumLeads * kNumVowels * kNumTails;

bool is_syllable(uint32_t c) { return c - kSyllables < kNumSyllables; }

const Decomposition* find_decomposition(uint32_t c) {
  const auto* found = std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), c,
                                       [](const Decomposition& d, uint32_t wanted) { return d.character < wanted; });
  return found != std::end(kDecompositions) && found->character == c ? found : nullptr;
}

uint8_t combining_class(uint32_t c) {
  const auto* found = std::lower_bound(std::begin(kCombiningRanges), std::end(kCombiningRanges), c,
                                       [](const CombiningRange& r, uint32_t wanted) { return r.last < wanted; });
  return found != std::end(kCombiningRanges) && c >= found->first ? found->combining_class : 0;
}

void decompose(uint32_t c, std::vector<uint32_t>* out) {
  if (is_syllable(c)) {
    const uint32_t s = c - kSyllables;
    out->push_back(kLeads + s / (kNumVowels * kNumTails));
    out->push_back(kVowels + s / kNumTails % kNumVowels);
    if (s % kNumTails != 0) out->push_back(kTails + s % kNumTails);
  } else if (const Decomposition* parts = find_decomposition(c)) {
    decompose(parts->first, out);
    if (parts->second != 0) decompose(parts->second, out);
  } else {
    out->push_back(c);
  }
}

// Marks between two starters by their class; equal classes keep their order.
void put_marks_in_order(std::vector<uint32_t>* text) {
  for (auto begin = text->begin(); begin != text->end();) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, text->end(), [](uint32_t c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end, [](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); });
    begin = end;
  }
}

// The character that the two become; 0: they stay two.
uint32_t composed(uint32_t first, uint32_t second) {
  if (first - kLeads < kNumLeads && second - kVowels < kNumVowels)
    return kSyllables + ((first - kLeads) * kNumVowels + second - kVowels) * kNumTails;
  if (is_syllable(first) && (first - kSyllables) % kNumTails == 0 && second > kTails && second < kTails + kNumTails)
    return first + second - kTails;
  static const auto pairs = [] {
    std::unordered_map<uint64_t, uint32_t> map;
    for (const Decomposition& d : kDecompositions)
      if (d.composes) map.emplace(uint64_t{d.first} << 32 | d.second, d.character);
    return map;
  }();
  const auto found = pairs.find(uint64_t{first} << 32 | second);
  return found == pairs.end() ? 0 : found->second;
}

}  // namespace

bool surely_nfc(std::string_view utf8) {
  // The first character that takes part is U+0300, whose first byte is 0xCC.
  return std::all_of(utf8.begin(), utf8.end(), [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

std::string to_nfc(std::string_view utf8) {
  std::vector<uint32_t> text;
  for (size_t at = 0, length = 0; at < utf8.size(); at += length)
    decompose(first_character(utf8.substr(at), &length), &text);
  put_marks_in_order(&text);
  // Each mark joins the starter before it, unless one of its class or higher stands between.
  std::vector<uint32_t> out;
  size_t starter = text.size();  // in `out`; none yet
  uint8_t last = 0;              // class of what was put behind it
  for (const uint32_t c : text) {
    const uint8_t mark = combining_class(c);
    if (starter < out.size() && (starter + 1 == out.size() || last < mark)) {
      if (const uint32_t both = composed(out[starter], c)) {
        out[starter] = both;
        continue;
      }
    }
    out.push_back(c);
    last = mark;
    if (mark == 0) starter = out.size() - 1;
  }
  std::string result;
  for (const uint32_t c : out) append_utf8(c, &result);
  return result;
}

}  // namespace sluice
