// The thread team under the conditions that kernels make: many small jobs of changing size, more threads than cores,
// helpers asleep. Every chunk must run exactly once and be visible when parallel_for returns.
#include "sluice/thread_team.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace sluice {
namespace {

class ThreadTeamTest : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadTeamTest, ::testing::Values(1, 2, 3, 4));

TEST_P(ThreadTeamTest, RunsEveryIndexExactlyOnce) {
  ThreadTeam team(GetParam());
  EXPECT_EQ(team.size(), GetParam());
  for (int64_t count : {0, 1, 2, 7, 64, 1000, 4097}) {
    for (int64_t grain : {0, 1, 3, 64, 5000}) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      std::atomic<int> bad_ranges = 0, bad_ranks = 0;
      team.parallel_for(count, grain, [&](int64_t begin, int64_t end, int rank) {
        if (begin < 0 || end <= begin || end > count || end - begin > std::max<int64_t>(grain, 1)) {
          ++bad_ranges;
          return;
        }
        if (rank < 0 || rank >= team.size()) ++bad_ranks;
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      EXPECT_EQ(bad_ranges, 0) << "count " << count << " grain " << grain;
      EXPECT_EQ(bad_ranks, 0) << "count " << count << " grain " << grain;
      for (int64_t i = 0; i < count; ++i)
        ASSERT_EQ(visits[static_cast<size_t>(i)], 1) << "index " << i << " count " << count << " grain " << grain;
    }
  }
}

// A helper that still stands at the end of job n must not claim a chunk of job n + 1 under n's ticket: then that chunk
// would run twice and another one would be missing on return. Sizes fall and rise, so that an old ticket looks open.
TEST_P(ThreadTeamTest, ManySmallJobsOfChangingSize) {
  ThreadTeam team(GetParam());
  constexpr int kJobs = 200'000;
  constexpr int64_t kMaxCount = 16;
  struct alignas(64) Slot {
    std::atomic<int64_t> visits = 0;
  };
  std::vector<Slot> slots(kMaxCount);
  int64_t expected[kMaxCount] = {};
  for (int job = 0; job < kJobs; ++job) {
    const int64_t count = job % 2 == 0 ? 2 : kMaxCount;
    team.parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        slots[static_cast<size_t>(i)].visits.fetch_add(1, std::memory_order_relaxed);
    });
    for (int64_t i = 0; i < kMaxCount; ++i) {
      expected[i] += i < count;
      ASSERT_EQ(slots[static_cast<size_t>(i)].visits.load(std::memory_order_relaxed), expected[i])
          << "job " << job << " index " << i << " count " << count;
    }
  }
}

// Plain (not atomic) data that one job writes and the next reads: ThreadSanitizer sees a missing edge here.
TEST_P(ThreadTeamTest, LaterJobsSeeWhatEarlierOnesWrote) {
  ThreadTeam team(GetParam());
  struct Node {
    std::vector<int64_t> values;
  };
  std::vector<Node> nodes(13, Node{std::vector<int64_t>(5, 0)});
  constexpr int kRounds = 3000;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<int64_t> sums(nodes.size(), 0);  // a fresh frame for each job, as kernels have
    team.parallel_for(static_cast<int64_t>(nodes.size()), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t& value : nodes[static_cast<size_t>(i)].values) value += i;
    });
    team.parallel_for(static_cast<int64_t>(nodes.size()), 2, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t value : nodes[nodes.size() - 1 - static_cast<size_t>(i)].values)
          sums[static_cast<size_t>(i)] += value;
    });
    for (size_t i = 0; i < sums.size(); ++i)
      ASSERT_EQ(sums[i], 5 * static_cast<int64_t>(nodes.size() - 1 - i) * (round + 1)) << "round " << round;
  }
}

// A rank names a workspace: two chunks of one rank never overlap in time.
TEST_P(ThreadTeamTest, ARankIsNeverInTwoChunksAtOnce) {
  ThreadTeam team(GetParam());
  std::vector<std::atomic<int>> inside(static_cast<size_t>(GetParam()));
  std::atomic<int> overlaps = 0;
  for (int round = 0; round < 200; ++round) {
    team.parallel_for(50, 1, [&](int64_t, int64_t, int rank) {
      if (inside[static_cast<size_t>(rank)].fetch_add(1) != 0) ++overlaps;
      for (int spin = 0; spin < 50; ++spin) std::atomic_signal_fence(std::memory_order_seq_cst);
      inside[static_cast<size_t>(rank)].fetch_sub(1);
    });
  }
  EXPECT_EQ(overlaps, 0);
}

TEST_P(ThreadTeamTest, WakesAfterParking) {
  ThreadTeam team(GetParam());
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(4));  // far beyond the 20-40 us of spinning
    std::atomic<int64_t> sum = 0;
    team.parallel_for(100, 1, [&](int64_t begin, int64_t, int) { sum += begin; });
    EXPECT_EQ(sum, 4950);
  }
}

TEST_P(ThreadTeamTest, HelpersDoTakePart) {
  ThreadTeam team(GetParam());
  std::mutex mutex;
  std::set<int> ranks;
  // Each chunk sleeps, so that even on one busy core all helpers get a turn within a few jobs.
  for (int round = 0; round < 50 && static_cast<int>(ranks.size()) < GetParam(); ++round) {
    team.parallel_for(4 * GetParam(), 1, [&](int64_t, int64_t, int rank) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const std::lock_guard lock(mutex);
      ranks.insert(rank);
    });
  }
  EXPECT_EQ(static_cast<int>(ranks.size()), GetParam());
}

TEST_P(ThreadTeamTest, IsDestroyedSpinningParkedOrUnused) {
  for (int round = 0; round < 20; ++round) ThreadTeam unused(GetParam());
  for (int round = 0; round < 20; ++round) {
    ThreadTeam spinning(GetParam());
    spinning.parallel_for(8, 1, [](int64_t, int64_t, int) {});
  }
  for (int round = 0; round < 3; ++round) {
    ThreadTeam parked(GetParam());
    parked.parallel_for(8, 1, [](int64_t, int64_t, int) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST(ThreadTeam, AtLeastOneCpuIsAvailable) {
  EXPECT_GE(ThreadTeam::available_cpus(), 1);
  EXPECT_LE(ThreadTeam::available_cpus(), static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace sluice
