#include "tokenizer/utf8.h"

#include <cstring>

namespace sluice {
namespace {

uint8_t byte_at(std::string_view text, size_t position) {
  return static_cast<uint8_t>(text[position]);
}

// What may follow a lead byte: how many bytes, and the range of the first of them (Unicode table 3-7; the narrowed
// ranges shut out overlong forms, surrogates and values above U+10FFFF).
struct Continuation {
  size_t count;  // 0: not a lead byte of a longer character
  uint8_t first_low = 0x80;
  uint8_t first_high = 0xBF;
};

Continuation continuation_of(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {2};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  if (lead >= 0xF1 && lead <= 0xF3) return {3};
  return {0};
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  const uint8_t lead = byte_at(text, 0);
  if (lead < 0x80) return {Utf8Kind::kCharacter, 1};
  const Continuation rest = continuation_of(lead);
  if (rest.count == 0) return {Utf8Kind::kInvalid, 1};
  for (size_t i = 1; i <= rest.count; ++i) {
    if (i == text.size()) return {Utf8Kind::kIncomplete, i};
    const uint8_t low = i == 1 ? rest.first_low : 0x80;
    const uint8_t high = i == 1 ? rest.first_high : 0xBF;
    if (byte_at(text, i) < low || byte_at(text, i) > high) return {Utf8Kind::kInvalid, i};
  }
  return {Utf8Kind::kCharacter, rest.count + 1};
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t position = 0;
  while (position < text.size()) {
    uint64_t eight = 0;  // ASCII goes eight bytes at a time
    if (text.size() - position >= sizeof(eight)) {
      std::memcpy(&eight, text.data() + position, sizeof(eight));
      if ((eight & 0x8080808080808080u) == 0) {
        position += sizeof(eight);
        continue;
      }
    }
    const Utf8Step step = utf8_step(text.substr(position));
    if (step.kind != Utf8Kind::kCharacter) return position;
    position += step.length;
  }
  return position;
}

uint32_t first_character(std::string_view text, size_t* length) {
  const uint8_t lead = byte_at(text, 0);
  *length = lead < 0x80 ? 1 : continuation_of(lead).count + 1;
  if (*length == 1) return lead;
  uint32_t character = lead & (0x7Fu >> *length);
  for (size_t i = 1; i < *length; ++i) character = character << 6 | (byte_at(text, i) & 0x3Fu);
  return character;
}

void append_utf8(uint32_t character, std::string* out) {
  const auto put = [out](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
  if (character < 0x80) return put(character);
  if (character < 0x800) {
    put(0xC0 | character >> 6);
  } else if (character < 0x10000) {
    put(0xE0 | character >> 12);
    put(0x80 | (character >> 6 & 0x3F));
  } else {
    put(0xF0 | character >> 18);
    put(0x80 | (character >> 12 & 0x3F));
    put(0x80 | (character >> 6 & 0x3F));
  }
  put(0x80 | (character & 0x3F));
}

}  // namespace sluice
