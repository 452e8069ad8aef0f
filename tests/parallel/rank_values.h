// What each rank brings to a collective: every order of additions gives other bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace sluice {

// Of magnitudes far apart.
inline std::vector<float> values_of(int rank, size_t count) {
  std::mt19937 random(static_cast<uint32_t>(rank) * 7919 + static_cast<uint32_t>(count));
  std::vector<float> values(count);
  for (float& value : values)
    value = std::ldexp(static_cast<float>(random() % 2000) - 1000, static_cast<int>(random() % 40) - 20);
  return values;
}

inline std::vector<float> sum_in_order(int size, size_t count) {
  std::vector<float> sum = values_of(0, count);
  for (int rank = 1; rank < size; ++rank) {
    const std::vector<float> term = values_of(rank, count);
    for (size_t i = 0; i < count; ++i) sum[i] += term[i];
  }
  return sum;
}

// [size, count]
inline std::vector<float> values_of_all(int size, size_t count) {
  std::vector<float> all;
  for (int rank = 0; rank < size; ++rank) {
    const std::vector<float> theirs = values_of(rank, count);
    all.insert(all.end(), theirs.begin(), theirs.end());
  }
  return all;
}

inline std::span<const std::byte> bytes(const std::vector<float>& values) { return std::as_bytes(std::span(values)); }
inline std::span<std::byte> bytes(std::vector<float>& values) { return std::as_writable_bytes(std::span(values)); }

}  // namespace sluice
