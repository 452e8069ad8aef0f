// What each rank brings to a collective - every order of additions gives other bits -, and what every communicator must
// make of it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <span>
#include <vector>

#include "sluice/communicator.h"

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

// Each rank calls them with the same counts.
inline void expect_sums_in_order(Communicator& ranks, std::initializer_list<size_t> counts) {
  for (const size_t count : counts) {
    std::vector<float> values = values_of(ranks.rank(), count);
    const Status status = ranks.all_reduce_sum(values);
    ASSERT_TRUE(status.ok()) << status.to_string();
    const std::vector<float> expected = sum_in_order(ranks.size(), count);
    ASSERT_TRUE(count == 0 || std::memcmp(values.data(), expected.data(), count * sizeof(float)) == 0)
        << "rank " << ranks.rank() << ", " << count << " values";
  }
}

inline void expect_gathers_and_broadcasts(Communicator& ranks, std::initializer_list<size_t> counts) {
  for (const size_t count : counts) {
    const std::vector<float> mine = values_of(ranks.rank(), count);
    const std::vector<float> expected = values_of_all(ranks.size(), count);
    std::vector<float> all(expected.size(), NAN);
    ASSERT_TRUE(ranks.all_gather(bytes(mine), bytes(all)).ok());
    EXPECT_EQ(all, expected);
    std::vector<float> at_first(ranks.rank() == 0 ? expected.size() : 0, NAN);
    ASSERT_TRUE(ranks.gather(bytes(mine), bytes(at_first)).ok());
    if (ranks.rank() == 0) {
      EXPECT_EQ(at_first, expected);
    }
    std::vector<float> spread = mine;
    ASSERT_TRUE(ranks.broadcast(bytes(spread)).ok());
    EXPECT_EQ(spread, values_of(0, count));
  }
}

}  // namespace sluice
