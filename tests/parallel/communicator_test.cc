// Gloo behind the seam: ranks as threads over the loopback. A build without Gloo has the group of one alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "parallel/gloo_communicator.h"
#include "parallel/single_rank.h"
#include "tests/parallel/rank_values.h"
#include "tests/support/rank_threads.h"

namespace sluice {
namespace {

TEST(SingleRankCommunicator, IsItsOwnSum) {
  SingleRank one;
  std::vector<float> values = values_of(0, 5), all(5);
  EXPECT_TRUE(one.all_reduce_sum(values).ok());
  EXPECT_EQ(values, values_of(0, 5));
  EXPECT_TRUE(one.all_gather(bytes(values), bytes(all)).ok());
  EXPECT_EQ(all, values);
}

#ifdef SLUICE_GLOO

class GlooGroup : public testing::TestWithParam<int> {};

TEST_P(GlooGroup, SumsInTheOrderOfRanksWhateverTheCount) {
  const size_t small = kSmallBytes / sizeof(float);
  run_ranks(GetParam(), [&](Group& group) {
    expect_sums_in_order(group.ranks(), {0, 1, 3, 1000, small, small + 1, 100'003});
  });
}

TEST_P(GlooGroup, GathersAndBroadcasts) {
  run_ranks(GetParam(), [&](Group& group) { expect_gathers_and_broadcasts(group.ranks(), {0, 1, 20'001}); });
}

// The last rank leaves (its sockets close, as when its process dies): everybody else hears of it at once, with a
// reason, and so does whoever asks again.
TEST_P(GlooGroup, ARankThatLeavesIsNoticedAtOnce) {
  const TimePoint begin = std::chrono::steady_clock::now();
  run_ranks(GetParam(), [&](Group& group) {
    Communicator& ranks = group.ranks();
    if (ranks.rank() == ranks.size() - 1) return;
    for (int attempt = 0; attempt < 2; ++attempt) {
      std::vector<float> values(10);
      const Status status = ranks.all_reduce_sum(values);
      ASSERT_EQ(status.code(), StatusCode::kUnavailable);
      EXPECT_THAT(status.message(), testing::StartsWith(fmt::format(
                                        "rank {} of {}: all_reduce_sum number 1:", ranks.rank(), ranks.size())));
    }
  });
  EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 10);
}

TEST_P(GlooGroup, ARankThatHangsIsNoticedWithinTheTimeout) {
  std::atomic<int> noticed = 0;
  run_ranks(
      GetParam(),
      [&](Group& group) {
        Communicator& ranks = group.ranks();
        if (ranks.rank() == ranks.size() - 1) {
          while (noticed < ranks.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(5));
          return;
        }
        const TimePoint begin = std::chrono::steady_clock::now();
        std::vector<float> values(10);
        const Status status = ranks.all_reduce_sum(values);
        noticed += 1;
        EXPECT_EQ(status.code(), StatusCode::kUnavailable);
        EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 5);
      },
      std::chrono::milliseconds(200));
}

INSTANTIATE_TEST_SUITE_P(Sizes, GlooGroup, testing::Values(2, 3, 4));

TEST(GlooGroupStart, ARankThatNeverComes) {
  const int listener = listen_at("127.0.0.1", 0).value();
  const auto group = Group::open({.rank = 0,
                                  .size = 2,
                                  .port = port_of(listener),
                                  .listener = listener,
                                  .own_host = {},
                                  .start_timeout = std::chrono::milliseconds(300)});
  ASSERT_TRUE(group.ok());
  const Status status = (*group)->meet();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), testing::HasSubstr("rank 0 of 2"));
}

#endif  // SLUICE_GLOO

}  // namespace
}  // namespace sluice
