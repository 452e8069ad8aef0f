#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// Printable Latin-1 bytes stand for themselves; the other 68 take the characters from U+0100 on, in ascending order.
constexpr uint32_t kAlphabetEnd = 0x100 + 68;

struct Alphabet {
  std::array<uint32_t, 256> character_of{};
  std::array<int16_t, kAlphabetEnd> byte_of{};  // -1: not in the alphabet
};

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte_of.fill(-1);
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    const uint32_t character = printable ? byte : next++;
    alphabet.character_of[byte] = character;
    alphabet.byte_of[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet instance = make_alphabet();
  return instance;
}

}  // namespace

bool bytes_of_spelling(std::string_view spelling, std::string* bytes) {
  std::string result;
  while (!spelling.empty()) {
    size_t length = 0;
    const uint32_t character = first_character(spelling, &length);
    if (character >= kAlphabetEnd || alphabet().byte_of[character] < 0) return false;
    result.push_back(static_cast<char>(alphabet().byte_of[character]));
    spelling.remove_prefix(length);
  }
  *bytes = std::move(result);
  return true;
}

std::string spelling_of_byte(uint8_t byte) {
  std::string spelling;
  append_utf8(alphabet().character_of[byte], &spelling);
  return spelling;
}

}  // namespace sluice
