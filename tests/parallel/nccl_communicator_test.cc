// NCCL behind the seam, played by FakeNccl: ranks are threads with a device and a client of one store each. What NCCL
// is asked for and in which order, what arrives, and what becomes of calls that fail or hang.
#include "parallel/nccl_communicator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <thread>

#include "parallel/nccl_library.h"
#include "tests/parallel/fake_nccl.h"
#include "tests/parallel/queued_device.h"
#include "tests/parallel/rank_values.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// One rank of a group: all that its thread has.
struct Rank {
  GroupAddress address;
  std::unique_ptr<QueuedDevice> device = std::make_unique<QueuedDevice>();  // outlives the communicator
  std::unique_ptr<StoreClient> store;
  std::unique_ptr<NcclCommunicator> ranks;

  Status meet() {
    Result<std::unique_ptr<NcclCommunicator>> met =
        NcclCommunicator::connect(FakeNccl::api(), address, *store, *device);
    if (met.ok()) ranks = std::move(*met);
    return met.status();
  }
};

struct Timeouts {
  Duration start = std::chrono::seconds(20), operation = std::chrono::seconds(20);
};

// Runs body(rank) once per rank, each in its own thread, before it meets the others.
void run_alone(int size, const std::function<void(Rank&)>& body, const Timeouts& timeouts = {}) {
  const int listener = listen_at("127.0.0.1", 0).value();
  const int port = port_of(listener);
  StoreServer server(listener);
  std::vector<std::thread> threads;
  for (int index = 0; index < size; ++index)
    threads.emplace_back([&, index] {
      FakeNccl::enter(index);
      Rank rank{.address = {.rank = index,
                            .size = size,
                            .port = port,
                            .own_host = {},
                            .start_timeout = timeouts.start,
                            .timeout = timeouts.operation}};
      rank.store = StoreClient::connect("127.0.0.1", port, std::chrono::seconds(20)).value();
      body(rank);
    });
  for (std::thread& thread : threads) thread.join();
}

// The same after all have met.
void run_met(int size, const std::function<void(Rank&)>& body, const Timeouts& timeouts = {}) {
  run_alone(
      size,
      [&](Rank& rank) {
        const Status met = rank.meet();
        ASSERT_TRUE(met.ok()) << met.to_string();
        body(rank);
      },
      timeouts);
}

class NcclGroup : public testing::TestWithParam<int> {
 protected:
  FakeNccl nccl_;
};

TEST_P(NcclGroup, SumsInTheOrderOfRanksWhateverTheCount) {
  const size_t piece = kNcclPieceBytes / sizeof(float);
  run_met(GetParam(), [&](Rank& rank) {
    expect_sums_in_order(*rank.ranks, {0, 1, 3, 1000, piece, piece + 1, 2 * piece + 77});
  });
}

TEST_P(NcclGroup, GathersAndBroadcasts) {
  const size_t piece = kNcclPieceBytes / sizeof(float);
  run_met(GetParam(), [&](Rank& rank) {
    expect_gathers_and_broadcasts(*rank.ranks, {0, 1, 20'001, piece, 2 * piece + 5});
  });
}

// Device memory, between other work of the queue, also written down once and replayed over new values.
TEST_P(NcclGroup, OperationsOnTheDeviceAreCaptured) {
  constexpr int64_t kBytes = 1000;
  run_met(GetParam(), [&](Rank& rank) {
    QueuedDevice& device = *rank.device;
    NcclCommunicator& ranks = *rank.ranks;
    std::byte* const mine = device.allocate(kBytes).value();
    std::byte* const all = device.allocate(kBytes * ranks.size()).value();
    std::byte* const host = device.allocate_host(kBytes * ranks.size()).value();
    const auto step = [&] {
      EXPECT_TRUE(ranks.enqueue_all_gather(mine, all, kBytes).ok());
      EXPECT_TRUE(ranks.enqueue_broadcast(mine, kBytes).ok());
      EXPECT_TRUE(device.copy_out(host, all, kBytes * ranks.size()).ok());
    };
    const auto run = [&](uint8_t value, const std::function<void()>& body) {
      EXPECT_TRUE(device.fill(mine, static_cast<uint8_t>(value + ranks.rank()), kBytes).ok());
      body();
      const Status done = ranks.wait();
      ASSERT_TRUE(done.ok()) << done.to_string();
      for (int64_t i = 0; i < kBytes * ranks.size(); ++i)
        ASSERT_EQ(static_cast<int>(host[i]), value + i / kBytes) << "rank " << ranks.rank() << ", byte " << i;
      EXPECT_TRUE(device.copy_out(host, mine, kBytes).ok());
      ASSERT_TRUE(ranks.wait().ok());
      EXPECT_EQ(static_cast<int>(host[kBytes - 1]), value) << "the broadcast";
    };
    run(10, step);
    ASSERT_TRUE(device.begin_capture().ok());
    step();
    const Device::Graph graph = device.end_capture().value();
    for (const uint8_t value : {20, 30}) run(value, [&] { EXPECT_TRUE(device.replay(graph).ok()); });
    device.release(graph);
    device.release(mine);
    device.release(all);
    device.release_host(host);
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, NcclGroup, testing::Values(1, 2, 4));

class NcclCalls : public testing::Test {
 protected:
  FakeNccl nccl_;
};

TEST_F(NcclCalls, AreTheseInThisOrder) {
  run_met(3, [](Rank& rank) {
    NcclCommunicator& ranks = *rank.ranks;
    std::vector<float> values(3);
    std::vector<std::byte> mine(5), all(15), message(kNcclPieceBytes + 7);
    EXPECT_TRUE(ranks.all_reduce_sum(values).ok());
    EXPECT_TRUE(ranks.all_gather(mine, all).ok());
    EXPECT_TRUE(ranks.gather(mine, all).ok());
    EXPECT_TRUE(ranks.broadcast(message).ok());
  });
  EXPECT_THAT(nccl_.calls(0),
              ElementsAre("ncclGetUniqueId", "ncclCommInitRankConfig rank 0 of 3", "ncclAllGather 12 bytes",
                          "ncclAllGather 5 bytes", "ncclGroupStart", "ncclRecv 5 bytes from 1",
                          "ncclRecv 5 bytes from 2", "ncclGroupEnd", "ncclBroadcast 262144 bytes from 0",
                          "ncclBroadcast 7 bytes from 0", "ncclCommFinalize", "ncclCommDestroy"));
  for (const int rank : {1, 2})
    EXPECT_THAT(nccl_.calls(rank),
                ElementsAre(fmt::format("ncclCommInitRankConfig rank {} of 3", rank), "ncclAllGather 12 bytes",
                            "ncclAllGather 5 bytes", "ncclSend 5 bytes to 0", "ncclBroadcast 262144 bytes from 0",
                            "ncclBroadcast 7 bytes from 0", "ncclCommFinalize", "ncclCommDestroy"));
}

TEST_F(NcclCalls, EmptyOperationsAskForNothing) {
  run_met(2, [](Rank& rank) {
    EXPECT_TRUE(rank.ranks->all_reduce_sum({}).ok());
    EXPECT_TRUE(rank.ranks->gather({}, {}).ok());
    EXPECT_TRUE(rank.ranks->broadcast({}).ok());
  });
  EXPECT_THAT(nccl_.calls(1), ElementsAre("ncclCommInitRankConfig rank 1 of 2", "ncclCommFinalize", "ncclCommDestroy"));
}

TEST_F(NcclCalls, TheIdGoesThroughTheStore) {
  std::string stored;
  run_met(2, [&](Rank& rank) {
    if (rank.address.rank == 1) stored = rank.store->get("nccl/id", std::chrono::seconds(5)).value();
  });
  EXPECT_EQ(stored.size(), 128u);
  EXPECT_EQ(stored, nccl_.id_made());
}

// The failing rank says which call and why, aborts once, and asks NCCL for nothing more; the others notice by their
// timeout.
struct Failure {
  const char* call;
  int rank;
};
class NcclFailure : public testing::TestWithParam<Failure> {
 protected:
  // All operations; the first that fails is what comes back.
  static Status say_everything(NcclCommunicator& ranks) {
    std::vector<std::byte> mine(5), all(15);
    SLUICE_RETURN_IF_ERROR(ranks.all_gather(mine, all));
    SLUICE_RETURN_IF_ERROR(ranks.gather(mine, all));
    return ranks.broadcast(mine);
  }
  void everybody_gives_up(const char* reason) {
    const auto [call, failing] = GetParam();
    run_met(3,
            [&, call = call, failing = failing](Rank& rank) {
              const TimePoint begin = std::chrono::steady_clock::now();
              const int index = rank.address.rank;
              const Status status = say_everything(*rank.ranks);
              EXPECT_EQ(status.code(), StatusCode::kUnavailable);
              EXPECT_THAT(status.message(), StartsWith(fmt::format("rank {} of 3: ", index)));
              if (index == failing) {
                EXPECT_THAT(status.message(),
                            AllOf(HasSubstr(fmt::format("nccl: {} (nccl_communicator.cc:", call)), HasSubstr(reason)));
              } else {
                EXPECT_THAT(status.message(), HasSubstr("not done in time"));
              }
              const size_t calls = nccl_.calls(index).size();
              std::vector<float> values(2);
              const TimePoint again = std::chrono::steady_clock::now();
              EXPECT_EQ(rank.ranks->all_reduce_sum(values).message(), status.message());
              EXPECT_EQ(rank.ranks->enqueue_broadcast(nullptr, 1).message(), status.message());
              EXPECT_EQ(rank.ranks->wait().message(), status.message());
              EXPECT_LT(seconds(std::chrono::steady_clock::now() - again), 0.1);
              EXPECT_LT(seconds(again - begin), 5);
              rank.ranks.reset();
              EXPECT_EQ(nccl_.calls(index).size(), calls);
            },
            {.operation = milliseconds(200)});
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(nccl_.count(rank, "ncclCommAbort"), 1u) << rank;
      EXPECT_EQ(nccl_.calls(rank).back(), "ncclCommAbort") << rank;
    }
  }

  FakeNccl nccl_;
};

TEST_P(NcclFailure, OfACallIsNamedAndEndsTheGroup) {
  nccl_.fail(GetParam().rank, GetParam().call);
  everybody_gives_up("system error; what NCCL says");
}

std::string name_of(const testing::TestParamInfo<Failure>& info) {
  return fmt::format("{}_rank{}", info.param.call, info.param.rank);
}
INSTANTIATE_TEST_SUITE_P(Calls, NcclFailure,
                         testing::Values(Failure{"ncclAllGather", 0}, Failure{"ncclAllGather", 2},
                                         Failure{"ncclGroupStart", 0}, Failure{"ncclRecv", 0},
                                         Failure{"ncclGroupEnd", 0}, Failure{"ncclBroadcast", 1}),
                         name_of);

// What was accepted and then goes wrong, or never ends.
class NcclLateFailure : public NcclFailure {};

TEST_P(NcclLateFailure, IsReportedAndEndsTheGroup) {
  nccl_.fail_later(GetParam().rank, GetParam().call);
  everybody_gives_up("failed later: remote error; what NCCL says");
}

TEST_P(NcclLateFailure, HangsAreNoticedWithinTheTimeout) {
  nccl_.hang(GetParam().rank, GetParam().call);
  everybody_gives_up("not done in time");
}

INSTANTIATE_TEST_SUITE_P(Calls, NcclLateFailure,
                         testing::Values(Failure{"ncclAllGather", 0}, Failure{"ncclAllGather", 2},
                                         Failure{"ncclGroupEnd", 0}, Failure{"ncclBroadcast", 1}),
                         name_of);

// The receiver notices by its timeout.
TEST_F(NcclCalls, ASendThatFailsEndsTheGroup) {
  nccl_.fail(1, "ncclSend");
  run_met(2,
          [](Rank& rank) {
            std::vector<std::byte> mine(5), all(10);
            const Status status = rank.ranks->gather(mine, all);
            EXPECT_THAT(status.message(), rank.address.rank == 1
                                              ? HasSubstr("nccl: ncclSend (nccl_communicator.cc:")
                                              : HasSubstr("nccl: ncclGroupEnd (nccl_communicator.cc:"));
          },
          {.operation = milliseconds(100)});
}

TEST_F(NcclCalls, TheTimeoutIsOfTheOperationsFromNowOn) {
  nccl_.hang(1, "ncclBroadcast");
  run_met(2, [](Rank& rank) {
    rank.ranks->set_timeout(milliseconds(100));
    const TimePoint begin = std::chrono::steady_clock::now();
    std::vector<std::byte> message(3);
    EXPECT_EQ(rank.ranks->broadcast(message).code(), StatusCode::kUnavailable);
    EXPECT_GE(seconds(std::chrono::steady_clock::now() - begin), 0.1);
    EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 5);
  });
}

// A step that was captured is waited for, too.
TEST_F(NcclCalls, AHangInTheQueueIsNoticedByTheWait) {
  nccl_.hang(0, "ncclAllGather");
  run_met(2,
          [](Rank& rank) {
            std::byte* const all = rank.device->allocate(20).value();
            ASSERT_TRUE(rank.ranks->enqueue_all_gather(all + 10 * rank.address.rank, all, 10).ok());
            const Status status = rank.ranks->wait();
            EXPECT_THAT(
                status.message(),
                AllOf(StartsWith(fmt::format("rank {} of 2: wait number 2: nccl: ncclAllGather", rank.address.rank)),
                      HasSubstr("not done in time")));
            EXPECT_TRUE(rank.device->wait().ok());  // the abort has freed the queue
            rank.device->release(all);
          },
          {.operation = milliseconds(200)});
}

TEST_F(NcclCalls, ADeviceThatFailsEndsTheGroup) {
  for (const char* call : {"copy_in", "copy_out", "done"}) {
    run_met(1, [&](Rank& rank) {
      rank.device->fail(call);
      std::vector<float> values(3);
      const Status status = rank.ranks->all_reduce_sum(values);
      EXPECT_EQ(status.code(), StatusCode::kUnavailable);
      EXPECT_THAT(status.message(), HasSubstr(fmt::format("all_reduce_sum number 1: {}: fails by request", call)));
      rank.device->fail("");
      EXPECT_EQ(rank.ranks->all_reduce_sum(values).message(), status.message());
    });
  }
  EXPECT_EQ(nccl_.count(0, "ncclCommAbort"), 3u);
}

class NcclStart : public NcclCalls {
 protected:
  // Nobody meets; what each rank says.
  std::vector<std::string> reasons(
      int size, const std::function<void(Rank&)>& before = [](Rank&) {}) {
    std::vector<std::string> messages(static_cast<size_t>(size));
    run_alone(size,
              [&](Rank& rank) {
                before(rank);
                const Status met = rank.meet();
                EXPECT_EQ(met.code(), StatusCode::kUnavailable) << met.to_string();
                EXPECT_THAT(met.message(), StartsWith(fmt::format(
                                               "rank {} of {}: the ranks did not meet: ", rank.address.rank, size)));
                messages[static_cast<size_t>(rank.address.rank)] = met.message();
              },
              {.start = milliseconds(300)});
    return messages;
  }
};

TEST_F(NcclStart, ARankThatNeverComes) {
  nccl_.hang(1, "ncclCommInitRankConfig");
  for (const std::string& message : reasons(2))
    EXPECT_THAT(message,
                AllOf(HasSubstr("nccl: ncclCommInitRankConfig (nccl_communicator.cc:"), HasSubstr("not done in time")));
  for (const int rank : {0, 1}) EXPECT_EQ(nccl_.count(rank, "ncclCommAbort"), 1u);
}

TEST_F(NcclStart, AnInitThatFailsHasNothingToAbort) {
  nccl_.fail(0, "ncclCommInitRankConfig");
  EXPECT_THAT(reasons(2)[0], HasSubstr("system error; what NCCL says"));
  EXPECT_EQ(nccl_.count(0, "ncclCommAbort"), 0u);
  EXPECT_EQ(nccl_.count(1, "ncclCommAbort"), 1u);
}

TEST_F(NcclStart, AnInitThatFailsLaterIsAborted) {
  nccl_.fail_later(0, "ncclCommInitRankConfig");
  nccl_.fail_later(1, "ncclCommInitRankConfig");
  for (const std::string& message : reasons(2)) EXPECT_THAT(message, HasSubstr("failed later: remote error"));
  for (const int rank : {0, 1}) EXPECT_EQ(nccl_.count(rank, "ncclCommAbort"), 1u);
}

TEST_F(NcclStart, WithoutAnIdTheOthersSayWhatTheyWaitedFor) {
  nccl_.fail(0, "ncclGetUniqueId");
  const std::vector<std::string> messages = reasons(2);
  EXPECT_THAT(messages[0], HasSubstr("nccl: ncclGetUniqueId (nccl_communicator.cc:"));
  EXPECT_THAT(messages[1], HasSubstr("key \"nccl/id\": nobody has set it in time"));
  EXPECT_TRUE(nccl_.calls(1).empty());
}

TEST_F(NcclStart, WhatIsNoIdIsRefused) {
  nccl_.fail(0, "ncclGetUniqueId");
  const std::vector<std::string> messages = reasons(2, [](Rank& rank) {
    if (rank.address.rank == 0) {
      ASSERT_TRUE(rank.store->set("nccl/id", "too short").ok());
    }
  });
  EXPECT_THAT(messages[1], HasSubstr("key \"nccl/id\": expected 128 bytes, found 9"));
}

TEST_F(NcclStart, ADeviceWithoutMemorySaysSo) {
  run_alone(1, [](Rank& rank) {
    for (const char* call : {"allocate", "allocate_host"}) {
      rank.device->fail(call, StatusCode::kResourceExhausted);
      const Status met = rank.meet();
      EXPECT_EQ(met.code(), StatusCode::kResourceExhausted);
      EXPECT_THAT(met.message(), HasSubstr(call));
    }
  });
  EXPECT_TRUE(nccl_.calls(0).empty());
}

// The end is bounded, whatever the others do: rank 1 stays, and so the group never becomes quiet.
TEST_F(NcclCalls, ALeaveThatHangsIsAborted) {
  std::atomic<bool> left = false;
  run_met(2,
          [&](Rank& rank) {
            if (rank.address.rank == 0) {
              rank.ranks.reset();
              left = true;
            }
            while (!left) std::this_thread::sleep_for(milliseconds(5));
          },
          {.operation = milliseconds(100)});
  EXPECT_THAT(nccl_.calls(0), ElementsAre("ncclGetUniqueId", "ncclCommInitRankConfig rank 0 of 2", "ncclCommFinalize",
                                          "ncclCommAbort"));
}

TEST_F(NcclCalls, AFinalizeOrDestroyThatFailsEndsAllTheSame) {
  nccl_.fail(0, "ncclCommDestroy");
  run_met(1, [](Rank&) {});
  EXPECT_EQ(nccl_.calls(0).back(), "ncclCommDestroy");
  nccl_.fail(0, "ncclCommFinalize");
  run_met(1, [](Rank&) {});
  EXPECT_EQ(nccl_.calls(0).back(), "ncclCommAbort");
  EXPECT_EQ(nccl_.count(0, "ncclCommDestroy"), 1u);
}

// The real library, if this machine has it: every call of the table is there, and those that need no GPU answer.
TEST(NcclLibrary, AnswersOrSaysWhatIsMissing) {
  const Result<const NcclApi*> api = nccl_library();
  if (!api.ok()) {
    EXPECT_EQ(api.status().code(), StatusCode::kFailedPrecondition);
    EXPECT_THAT(api.status().message(), AllOf(StartsWith("nccl: "), HasSubstr("libnccl")));
    return;
  }
  int version = 0;
  EXPECT_EQ((*api)->version(&version), kNcclSuccess);
  EXPECT_GE(version, 21400);
  EXPECT_THAT((*api)->error_text(kFakeNcclSystemError), HasSubstr("system error"));
  EXPECT_THAT((*api)->error_text(kFakeNcclRemoteError), HasSubstr("remote"));
}

}  // namespace
}  // namespace sluice
