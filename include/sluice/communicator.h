// The seam between the ranks of one model: processes (or devices) that each hold a slice of the weights and meet in the
// middle of every layer. Ranks call the same operations with the same counts in the same order, each rank from one
// thread. An operation that fails - a rank died, hung, or fell out of step - fails on every rank within the timeout,
// and whatever comes after it fails at once with the same reason: a broken group is replaced, never mended.
//
// The rule of same bits holds across ranks: a sum adds the ranks in ascending order at every element, so neither the
// count nor the place of an element changes it, and all ranks hold the same result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "sluice/clock.h"
#include "sluice/status.h"

namespace sluice {

class Communicator {
 public:
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool alone() const { return size_ == 1; }

  // How long an operation may take from now on, the wait for the slowest rank included.
  virtual void set_timeout(Duration timeout) = 0;

  // values[i] = ((v_0[i] + v_1[i]) + v_2[i]) + ..., v_r being rank r's values, on every rank.
  virtual Status all_reduce_sum(std::span<float> values) = 0;
  // all [size, mine.size()], rank by rank, on every rank.
  virtual Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  // The same on rank 0 alone; `all` is empty elsewhere.
  virtual Status gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  // Rank 0's bytes on every rank.
  virtual Status broadcast(std::span<std::byte> bytes) = 0;

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

 private:
  const int rank_, size_;
};

}  // namespace sluice
