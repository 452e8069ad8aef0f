// A communicator that notes when each operation began and ended, and what the notes of all ranks say together: how long
// a rank computed, waited for others, and communicated. Owns the notes; the communicator below is lent. For
// measurements (`bench engine`): two looks at the clock and 16 bytes an operation while it runs; the notes meet
// afterwards, in one gather that nobody measures.
//
// Ranks' clocks are never compared, for they may be those of different machines. The last rank to come to an operation
// waits for nobody, so its time there, the shortest of all, is what the operation itself takes; what others spend there
// beyond that is their wait:
//
//   rank 0   compute |---------- all_reduce ----------|      shortest = communication, here rank 1's
//   rank 1   compute ------------------| all_reduce --|      rank 0's rest = wait
//
// A broadcast and a gather go one way, and who sends may be done before the bytes are there: of these the receiver's
// time on the wire counts as wait. A step has one of each beside two sums a layer.
#pragma once

#include <vector>

#include "sluice/communicator.h"

namespace sluice {

// By the clock of the rank that noted it.
struct OperationTime {
  int64_t begin = 0, end = 0;  // ns
};

// Seconds of one rank; they add up to the time that was split.
struct TimeSplit {
  double compute = 0, communication = 0, wait = 0;
};

// Of each rank in the time in which rank 0 made operations [first, last), `total` seconds by its clock, in which all of
// its own lie. times [ranks][operations]. Others begin and end their part later or earlier than that; it counts as
// wait.
std::vector<TimeSplit> split_time(const std::vector<std::vector<OperationTime>>& times, size_t first, size_t last,
                                  double total);

class TimedCommunicator final : public Communicator {
 public:
  explicit TimedCommunicator(Communicator& ranks) : Communicator(ranks.rank(), ranks.size()), ranks_(ranks) {}

  size_t num_operations() const { return notes_.size(); }  // since the last collect()
  // [ranks][operations] on rank 0, nothing elsewhere. All ranks call it behind the same operation; notes begin anew.
  Result<std::vector<std::vector<OperationTime>>> collect();

  void set_timeout(Duration timeout) override { ranks_.set_timeout(timeout); }
  Status all_reduce_sum(std::span<float> values) override {
    return timed([&] { return ranks_.all_reduce_sum(values); });
  }
  Status all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return timed([&] { return ranks_.all_gather(mine, all); });
  }
  Status gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    return timed([&] { return ranks_.gather(mine, all); });
  }
  Status broadcast(std::span<std::byte> bytes) override {
    return timed([&] { return ranks_.broadcast(bytes); });
  }

 private:
  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  template <typename Operation>
  Status timed(const Operation& operation) {
    const int64_t begin = now();
    Status status = operation();
    notes_.push_back({begin, now()});
    return status;
  }

  Communicator& ranks_;
  std::vector<OperationTime> notes_;
};

}  // namespace sluice
