// A fast hash of short byte strings for the tables of this room. Not for untrusted keys in unbounded tables.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>

namespace sluice {

inline uint64_t mix_bits(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Odd constants: digits of pi, nothing up the sleeve.
constexpr uint64_t kHashA = 0x243F6A8885A308D3;
constexpr uint64_t kHashB = 0x13198A2E03707345;

inline uint64_t hash_bytes(std::string_view bytes) {
  uint64_t hash = kHashA ^ bytes.size();
  const char* data = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; left -= 8, data += 8) {
    uint64_t word;
    std::memcpy(&word, data, 8);
    hash = mix_bits(hash ^ word, kHashB);
  }
  uint64_t word = 0;
  if (left >= 4) {  // two overlapping halves
    uint32_t low, high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + left - 4, 4);
    word = static_cast<uint64_t>(high) << 32 | low;
  } else if (left > 0) {
    word = static_cast<uint64_t>(static_cast<uint8_t>(data[0])) |
           static_cast<uint64_t>(static_cast<uint8_t>(data[left / 2])) << 8 |
           static_cast<uint64_t>(static_cast<uint8_t>(data[left - 1])) << 16;
  }
  return mix_bits(hash ^ word, kHashB ^ left);
}

}  // namespace sluice
