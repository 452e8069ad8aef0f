// Where a step's time goes: by notes made by hand, and with a rank that is late on purpose.
#include "parallel/timed_communicator.h"

#include <gtest/gtest.h>

#include <thread>

#include "parallel/single_rank.h"
#include "tests/support/rank_threads.h"

namespace sluice {
namespace {

// In ns; rank 1's clock is 1000 ahead. Operation 0 is before the time that is split, [1, 4) are in it: 100 ns from 40.
//   rank 0   40 computes 50 waits, sums 70 computes 75 sums 95 computes 100 sends 105 computes 140
//   rank 1                             sums 60..70, 70..85 computes, 85..95 sums, 95..120 waits and receives
TEST(SplitTime, ByHand) {
  const std::vector<std::vector<OperationTime>> times = {{{0, 30}, {50, 70}, {75, 95}, {100, 105}},
                                                         {{1000, 1030}, {1060, 1070}, {1085, 1095}, {1095, 1120}}};
  const std::vector<TimeSplit> splits = split_time(times, 1, 4, 100e-9);
  ASSERT_EQ(splits.size(), 2u);
  EXPECT_NEAR(splits[0].communication, 25e-9, 1e-15);  // 10 + 10 + 5, whoever was last
  EXPECT_NEAR(splits[0].compute, 55e-9, 1e-15);        // 100 - 20 - 20 - 5
  EXPECT_NEAR(splits[0].wait, 20e-9, 1e-15);           // 10 in each sum
  EXPECT_NEAR(splits[1].communication, 25e-9, 1e-15);
  EXPECT_NEAR(splits[1].compute, 15e-9, 1e-15);  // between its operations
  EXPECT_NEAR(splits[1].wait, 60e-9, 1e-15);     // 20 in the broadcast, 40 before the first and after the last
}

TEST(TimedCommunicator, OneRankComputesAllTheTime) {
  SingleRank alone;
  TimedCommunicator ranks(alone);
  std::vector<float> values(3);
  EXPECT_TRUE(ranks.all_reduce_sum(values).ok());
  EXPECT_EQ(ranks.num_operations(), 1u);
  const auto times = ranks.collect();
  ASSERT_TRUE(times.ok());
  ASSERT_EQ(times->size(), 1u);
  EXPECT_EQ(ranks.num_operations(), 0u);
  const TimeSplit split = split_time(*times, 0, 1, 1).at(0);
  EXPECT_EQ(split.wait, 0);
  EXPECT_NEAR(split.compute, 1, 0.01);
}

#ifdef SLUICE_GLOO

// Rank 1 comes 50 ms late to each of six sums: that is 0.3 s of computing there and of waiting elsewhere. Bounds leave
// a busy machine half of it.
TEST(TimedCommunicator, TheOthersWaitForALateRank) {
  constexpr double kLate = 0.3;
  std::vector<TimeSplit> splits;
  run_ranks(3, [&](Group& group) {
    TimedCommunicator ranks(group.ranks());
    std::vector<float> values(1000, 1.0f);
    ASSERT_TRUE(ranks.all_reduce_sum(values).ok());  // all are there
    const TimePoint begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 6; ++i) {
      if (ranks.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      values.assign(values.size(), 1.0f);
      ASSERT_TRUE(ranks.all_reduce_sum(values).ok());
      ASSERT_EQ(values[7], 3.0f);
    }
    const double total = seconds(std::chrono::steady_clock::now() - begin);
    const auto times = ranks.collect();
    ASSERT_TRUE(times.ok()) << times.status().to_string();
    ASSERT_EQ(times->size(), ranks.rank() == 0 ? 3u : 0u);
    if (ranks.rank() == 0) splits = split_time(*times, 1, 7, total);
    if (ranks.rank() == 0) {
      for (const TimeSplit& split : splits) EXPECT_NEAR(split.compute + split.communication + split.wait, total, 1e-6);
    }
  });
  ASSERT_EQ(splits.size(), 3u);
  // The first of its six times lies before rank 1's first operation here, in the wait of a rank other than the first.
  EXPECT_GT(splits[1].compute, kLate * 5 / 6 * 0.99);
  EXPECT_LT(splits[1].wait, kLate / 2);
  for (const size_t rank : {0, 2}) {
    EXPECT_GT(splits[rank].wait, kLate * 0.8) << rank;
    EXPECT_LT(splits[rank].compute, kLate / 2) << rank;
  }
  EXPECT_LT(splits[0].communication, kLate / 2);
}

#endif  // SLUICE_GLOO

}  // namespace
}  // namespace sluice
