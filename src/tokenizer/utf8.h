// UTF-8 as Unicode defines it: what is a well-formed character, and where an ill-formed one ends. Pure functions,
// any thread. Knows nothing of tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

enum class Utf8Kind : uint8_t {
  kCharacter,   // a whole, well-formed character
  kInvalid,     // bytes that no continuation could repair
  kIncomplete,  // a proper start of a character that the text cuts off
};

// The front of a text: one character, or the "maximal subpart" of an ill-formed one (Unicode 3.9: the longest start
// that a well-formed character could have, at least one byte). Each subpart is shown as one U+FFFD.
struct Utf8Step {
  Utf8Kind kind;
  size_t length;  // bytes, in [1, 4]
};
Utf8Step utf8_step(std::string_view text);  // `text` is not empty

// Bytes of the longest well-formed start of `text`; text.size() if all of it is.
size_t valid_utf8_prefix(std::string_view text);

// The character at the front of a well-formed, non-empty text; `length` gets its bytes.
uint32_t first_character(std::string_view text, size_t* length);

void append_utf8(uint32_t character, std::string* out);

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

}  // namespace sluice
