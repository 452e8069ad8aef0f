#include "tokenizer/regex_dialect.h"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <vector>

#include "tokenizer/unicode_additions.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// Unicode's White_Space, as items of a class.
constexpr std::string_view kWhiteSpace =
    R"(\x{09}-\x{0D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

constexpr std::string_view kCategories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                            "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                            "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// A repeat count above this only makes the compiled pattern huge.
constexpr int kMaxRepeat = 1000;

bool is_ascii_punctuation(uint32_t character) {
  return character < 0x80 && character > 0x20 && std::ispunct(static_cast<int>(character)) != 0;
}

void append_literal(uint32_t character, std::string* out) {
  if (is_ascii_punctuation(character)) out->push_back('\\');
  append_utf8(character, out);
}

// Items of a class that match \p{category} as of Unicode 16.
std::string category_items(std::string_view category) {
  std::string items = fmt::format("\\p{{{}}}", category);
  for (const UnicodeAddition& addition : kUnicodeAdditions) {
    if (std::string_view(addition.category).starts_with(category))
      items += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", addition.first, addition.last);
  }
  return items;
}

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& path) : pattern_(pattern), path_(path) {}

  Result<std::string> run() {
    while (!at_end()) SLUICE_RETURN_IF_ERROR(element());
    if (!groups_.empty()) return refuse("a group that is never closed");
    return std::move(out_);
  }

 private:
  // What stands before the current position decides which repeats may follow.
  enum class Before { kNothing, kAtom, kGroup };

  // A member of a class or an escape: one character, or ready-made items of a class.
  struct Item {
    bool is_character = true;
    uint32_t character = 0;
    std::string items;
    bool negated = false;
  };

  bool at_end() const { return position_ == pattern_.size(); }
  bool next_is(std::string_view text) const { return pattern_.substr(position_).starts_with(text); }
  bool take(std::string_view text) {
    if (!next_is(text)) return false;
    position_ += text.size();
    return true;
  }
  uint32_t take_character() {
    size_t length = 0;
    const uint32_t character = first_character(pattern_.substr(position_), &length);
    position_ += length;
    return character;
  }
  Status refuse(std::string_view what) const {
    return failed_precondition("{}: {} is not supported in a split pattern (near byte {} of the pattern)", path_, what,
                               position_);
  }
  bool ignores_case() const { return std::find(groups_.begin(), groups_.end(), 'i') != groups_.end(); }

  Status element() {
    if (next_is("(")) return open_group();
    if (next_is(")")) return close_group();
    if (next_is("*") || next_is("+") || next_is("?") || next_is("{")) return repeat();
    if (take("|")) return put("|", Before::kNothing);
    if (take("$")) return put("$", Before::kNothing);
    if (next_is("^")) return refuse("\"^\"");
    if (next_is("[") || next_is(".")) {
      // Case folding of classes differs between the engines (multi-character folds).
      if (ignores_case()) return refuse("a class inside (?i:)");
      return take(".") ? put(".", Before::kAtom) : character_class();
    }
    if (take("\\")) return outer_escape();
    append_literal(take_character(), &out_);
    before_ = Before::kAtom;
    return {};
  }

  Status put(std::string_view text, Before now) {
    out_ += text;
    before_ = now;
    return {};
  }

  Status open_group() {
    if (take("(?i:")) {
      groups_.push_back('i');
      return put("(?i:", Before::kNothing);
    }
    for (const char kind : {':', '!', '='}) {
      const char text[] = {'(', '?', kind, '\0'};
      if (!take(text)) continue;
      groups_.push_back(kind);
      return put(text, Before::kNothing);
    }
    if (next_is("(?") || next_is("(*")) return refuse("this kind of group");
    take("(");
    groups_.push_back(':');  // nobody reads captures
    return put("(?:", Before::kNothing);
  }

  Status close_group() {
    if (groups_.empty()) return refuse("a group that is never opened");
    take(")");
    const bool looks_ahead = groups_.back() == '!' || groups_.back() == '=';
    groups_.pop_back();
    return put(")", looks_ahead ? Before::kNothing : Before::kGroup);
  }

  // Repeats whose meaning is the same in both engines. Groups repeat at most once ("?"): no known split needs more,
  // and nested repeats are what makes backtracking exponential.
  Status repeat() {
    if (before_ == Before::kNothing) return refuse("a repeat of nothing");
    if (next_is("{")) return counted_repeat();
    if (before_ == Before::kGroup && !next_is("?")) return refuse("a repeated group");
    out_ += pattern_[position_++];
    if (next_is("?") || next_is("+")) out_ += pattern_[position_++];  // lazy, possessive
    before_ = Before::kNothing;
    return {};
  }

  Status counted_repeat() {
    if (before_ == Before::kGroup) return refuse("a repeated group");
    take("{");
    int low = 0;
    if (!number(&low)) return refuse("this use of \"{\"");
    int high = low;
    const bool has_comma = take(",");
    const bool open_ended = has_comma && next_is("}");
    if (has_comma && !open_ended && !number(&high)) return refuse("this use of \"{\"");
    if (!take("}") || high < low || high > kMaxRepeat) return refuse("this repeat count");
    if (next_is("?") || next_is("+")) return refuse("a lazy or possessive repeat count");
    return put(open_ended ? fmt::format("{{{},}}", low) : fmt::format("{{{},{}}}", low, high), Before::kNothing);
  }

  bool number(int* value) {
    const size_t begin = position_;
    *value = 0;
    while (!at_end() && pattern_[position_] >= '0' && pattern_[position_] <= '9' && *value <= kMaxRepeat)
      *value = *value * 10 + (pattern_[position_++] - '0');
    return position_ > begin;
  }

  Status outer_escape() {
    SLUICE_ASSIGN_OR_RETURN(const Item item, escape());
    before_ = Before::kAtom;
    if (item.is_character) {
      append_literal(item.character, &out_);
      return {};
    }
    if (ignores_case()) return refuse("a class inside (?i:)");
    out_ += fmt::format("[{}{}]", item.negated ? "^" : "", item.items);
    return {};
  }

  // What follows a backslash.
  Result<Item> escape() {
    if (at_end()) return refuse("a backslash at the end");
    if (take("s")) return Item{false, 0, std::string(kWhiteSpace), false};
    if (take("S")) return Item{false, 0, std::string(kWhiteSpace), true};
    if (next_is("p") || next_is("P")) return category();
    if (take("n")) return Item{true, '\n', {}, false};
    if (take("r")) return Item{true, '\r', {}, false};
    if (take("t")) return Item{true, '\t', {}, false};
    if (take("f")) return Item{true, '\f', {}, false};
    if (take("x{")) return code_point(1, 6, "}");
    if (take("u")) return code_point(4, 4, "");
    if (!is_ascii_punctuation(static_cast<uint8_t>(pattern_[position_])))
      return refuse(fmt::format("\"\\{}\"", pattern_.substr(position_, 1)));
    return Item{true, take_character(), {}, false};
  }

  Result<Item> category() {
    const bool negated = take("P");
    if (!negated) take("p");
    const size_t end = pattern_.find('}', position_);
    if (!take("{") || end == std::string_view::npos) return refuse("\\p without {}");
    const std::string_view name = pattern_.substr(position_, end - position_);
    if (std::find(std::begin(kCategories), std::end(kCategories), name) == std::end(kCategories))
      return refuse("this \\p{}");
    position_ = end + 1;
    return Item{false, 0, category_items(name), negated};
  }

  Result<Item> code_point(size_t min_digits, size_t max_digits, std::string_view close) {
    uint32_t character = 0;
    size_t digits = 0;
    for (; digits < max_digits && !at_end() && std::isxdigit(static_cast<uint8_t>(pattern_[position_])) != 0; ++digits)
      character = character * 16 + static_cast<uint32_t>(std::stoi(std::string(1, pattern_[position_++]), nullptr, 16));
    const bool is_character = character < 0xD800 || (character >= 0xE000 && character < 0x110000);
    if (digits < min_digits || !take(close) || !is_character) return refuse("this character escape");
    return Item{true, character, {}, false};
  }

  Status character_class() {
    take("[");
    out_ += take("^") ? "[^" : "[";
    if (next_is("]")) return refuse("an empty class");
    while (!take("]")) SLUICE_RETURN_IF_ERROR(class_item());
    return put("]", Before::kAtom);
  }

  Status class_item() {
    SLUICE_ASSIGN_OR_RETURN(const Item low, class_member());
    if (!low.is_character) {
      if (low.negated) return refuse("a negated escape inside a class");
      out_ += low.items;
      return {};
    }
    append_literal(low.character, &out_);
    if (!next_is("-") || next_is("-]")) return {};
    take("-");
    SLUICE_ASSIGN_OR_RETURN(const Item high, class_member());
    if (!high.is_character || high.character < low.character) return refuse("this range");
    out_ += '-';
    append_literal(high.character, &out_);
    return {};
  }

  Result<Item> class_member() {
    if (at_end()) return refuse("a class that is never closed");
    if (next_is("[")) return refuse("a class inside a class");
    if (next_is("&&")) return refuse("an intersection of classes");
    if (take("\\")) return escape();
    return Item{true, take_character(), {}, false};
  }

  std::string_view pattern_;
  const std::string& path_;
  size_t position_ = 0;
  std::string out_;
  std::vector<char> groups_;  // open ones: ':' plain, 'i' ignores case, '!' and '=' look ahead
  Before before_ = Before::kNothing;
};

}  // namespace

Result<std::string> regex_to_pcre2(std::string_view pattern, const std::string& path) {
  SLUICE_ASSIGN_OR_RETURN(std::string translated, Translator(pattern, path).run());
  // The one known pattern whose search is quadratic: in a run of n spaces without a line end behind it, each of the n
  // starts would walk to the end of the run and back. Only the start of a run can match: the repeat is greedy, so
  // what is left of the run after a match, or after a failure, holds no line end either.
  if (pattern == R"(\s+$)") return fmt::format("(?<![{}]){}", kWhiteSpace, translated);
  return translated;
}

std::string literal_to_pcre2(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    size_t length = 0;
    append_literal(first_character(text, &length), &out);
    text.remove_prefix(length);
  }
  return out;
}

}  // namespace sluice
