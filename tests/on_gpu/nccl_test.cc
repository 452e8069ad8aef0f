// Ranks over the real NCCL, a thread and a device for each; a machine with one GPU has a group of one, which still goes
// through NCCL's start, its kernels, graphs and its end.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "gpu/cuda_device.h"
#include "gpu/cuda_runtime.h"
#include "gpu/device_memory.h"
#include "parallel/nccl_communicator.h"
#include "parallel/nccl_library.h"
#include "tests/parallel/rank_values.h"

namespace sluice {
namespace {

int num_devices() {
  int count = 0;
  return cuda_runtime().device_count(&count) == 0 ? std::min(count, 8) : 0;
}

struct Rank {
  Device& device;
  NcclCommunicator& ranks;
};

class NcclOnGpu : public testing::Test {
 protected:
  void SetUp() override {
    const Result<const NcclApi*> api = nccl_library();
    if (!api.ok()) GTEST_SKIP() << api.status().message();
    api_ = *api;
  }

  // Runs body(rank) once per device, each in its own thread, after all have met.
  void run_ranks(const std::function<void(Rank)>& body) {
    const int size = num_devices(), listener = listen_at("127.0.0.1", 0).value();
    ASSERT_GT(size, 0);
    const int port = port_of(listener);
    StoreServer server(listener);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < size; ++rank)
      threads.emplace_back([&, rank] {
        const Result<std::unique_ptr<Device>> device = CudaDevice::open(cuda_runtime(), rank);
        ASSERT_TRUE(device.ok()) << device.status().to_string();
        const auto store = StoreClient::connect("127.0.0.1", port, std::chrono::seconds(20)).value();
        const GroupAddress address{
            .rank = rank, .size = size, .port = port, .own_host = {}, .start_timeout = std::chrono::seconds(60)};
        const auto ranks = NcclCommunicator::connect(*api_, address, *store, **device);
        ASSERT_TRUE(ranks.ok()) << ranks.status().to_string();
        body({**device, **ranks});
      });
    for (std::thread& thread : threads) thread.join();
  }

  const NcclApi* api_ = nullptr;
};

TEST_F(NcclOnGpu, TheSeam) {
  const size_t piece = kNcclPieceBytes / sizeof(float);
  run_ranks([&](Rank rank) {
    expect_sums_in_order(rank.ranks, {1, 1000, 2 * piece + 77});
    expect_gathers_and_broadcasts(rank.ranks, {1, 1000, 2 * piece + 77});
  });
}

// Run once, which opens NCCL's connections, then captured and replayed over new values.
TEST_F(NcclOnGpu, OperationsInAGraph) {
  constexpr int64_t kBytes = 8 * 7168 * 2;  // a decode step of 8 rows of bf16
  run_ranks([](Rank rank) {
    auto& [device, ranks] = rank;
    const DeviceBuffer mine = DeviceBuffer::allocate(device, kBytes).value();
    const DeviceBuffer all = DeviceBuffer::allocate(device, kBytes * ranks.size()).value();
    const PinnedBuffer host = PinnedBuffer::allocate(device, kBytes * (ranks.size() + 1)).value();
    const auto step = [&] {
      ASSERT_TRUE(ranks.enqueue_all_gather(mine.data(), all.data(), kBytes).ok());
      ASSERT_TRUE(ranks.enqueue_broadcast(mine.data(), kBytes).ok());
      ASSERT_TRUE(device.copy_out(host.data(), all.data(), kBytes * ranks.size()).ok());
      ASSERT_TRUE(device.copy_out(host.data() + kBytes * ranks.size(), mine.data(), kBytes).ok());
    };
    const auto run = [&](uint8_t value, const std::function<void()>& body) {
      ASSERT_TRUE(device.fill(mine.data(), static_cast<uint8_t>(value + ranks.rank()), kBytes).ok());
      body();
      const Status done = ranks.wait();
      ASSERT_TRUE(done.ok()) << done.to_string();
      for (int64_t i = 0; i < kBytes * (ranks.size() + 1); ++i)
        ASSERT_EQ(static_cast<int>(host.data()[i]), value + i / kBytes % ranks.size()) << "byte " << i;
    };
    run(10, step);
    ASSERT_TRUE(device.begin_capture().ok());
    step();
    const Result<Device::Graph> graph = device.end_capture();
    ASSERT_TRUE(graph.ok()) << graph.status().to_string();
    for (const uint8_t value : {20, 40}) run(value, [&] { ASSERT_TRUE(device.replay(*graph).ok()); });
    device.release(*graph);
  });
}

// The others' queues stand still until the abort ends what is in them.
TEST_F(NcclOnGpu, ARankThatStaysAwayIsNoticed) {
  if (num_devices() < 2) GTEST_SKIP() << "one GPU: nobody to wait for";
  run_ranks([](Rank rank) {
    std::vector<float> values(10);
    ASSERT_TRUE(rank.ranks.all_reduce_sum(values).ok());
    rank.ranks.set_timeout(std::chrono::seconds(2));
    if (rank.ranks.rank() == 0) return;  // its end waits for the others, 2 s at most
    const TimePoint begin = std::chrono::steady_clock::now();
    const Status status = rank.ranks.all_reduce_sum(values);
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.to_string();
    EXPECT_TRUE(rank.device.wait().ok());
    EXPECT_LT(seconds(std::chrono::steady_clock::now() - begin), 20);
  });
}

}  // namespace
}  // namespace sluice
