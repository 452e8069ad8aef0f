// The byte alphabet of byte-level BPE: each of the 256 bytes is written as one printable character in a
// tokenizer.json, so that its vocabulary is plain text. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

// The bytes that a vocabulary spelling stands for ("Ġthe" -> " the"). False, and `bytes` untouched, if a character
// lies outside the alphabet: such an entry (a special token, mostly) is plain text and no piece can ever become it.
bool bytes_of_spelling(std::string_view spelling, std::string* bytes);

std::string spelling_of_byte(uint8_t byte);

}  // namespace sluice
