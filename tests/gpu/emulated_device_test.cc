// The emulated device keeps CUDA's promises and breaks what CUDA does not promise.
#include "tests/support/grid/emulated_device.h"

#include <gtest/gtest.h>

#include "gpu/device_memory.h"
#include "kernels/cuda/elementwise/elementwise.h"

namespace sluice {
namespace {

struct Rows {  // y = table[ids] of 8 columns, on the device
  explicit Rows(Device& device_) : device(device_) {
    block = DeviceBuffer::allocate(device, 4096).value();
    pinned = PinnedBuffer::allocate(device, 4096).value();
    DeviceCarver carver(block.data());
    carver.carve(table, 32);
    carver.carve(ids, 2);
    carver.carve(y, 16);
  }
  void gather() {
    cuda::gather_rows({.table = table, .ids = ids, .y = y, .rows = 2, .cols = 8}, device.stream());
  }
  void load(std::vector<int32_t> wanted) {
    auto* values = pinned.as<uint16_t>();
    for (uint16_t i = 0; i < 32; ++i) values[i] = i;
    auto* rows = reinterpret_cast<int32_t*>(pinned.data() + 1024);
    std::copy(wanted.begin(), wanted.end(), rows);
    EXPECT_TRUE(device.copy_in(reinterpret_cast<std::byte*>(table), pinned.data(), 64).ok());
    EXPECT_TRUE(device.copy_in(reinterpret_cast<std::byte*>(ids), pinned.data() + 1024, 8).ok());
  }
  std::vector<uint16_t> result() {
    EXPECT_TRUE(device.copy_out(pinned.data() + 2048, reinterpret_cast<std::byte*>(y), 32).ok());
    EXPECT_TRUE(device.wait().ok());
    const auto* values = reinterpret_cast<uint16_t*>(pinned.data() + 2048);
    return {values, values + 16};
  }

  Device& device;
  DeviceBuffer block;
  PinnedBuffer pinned;
  cuda::bf16 *table, *y;
  int32_t* ids;
};

std::vector<uint16_t> rows_of(int first, int second) {
  std::vector<uint16_t> values;
  for (const int row : {first, second})
    for (int i = 0; i < 8; ++i) values.push_back(static_cast<uint16_t>(row * 8 + i));
  return values;
}

TEST(EmulatedDevice, WorkIsDoneInOrderByTheWait) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    EmulatedDevice device({.seed = seed});
    Rows rows(device);
    rows.load({3, 1});
    rows.gather();
    EXPECT_EQ(rows.result(), rows_of(3, 1));
    EXPECT_EQ(device.stats().launches, 1);
  }
}

TEST(EmulatedDevice, HostMemoryReusedTooEarlyShows) {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    EmulatedDevice device({.seed = seed});
    Rows rows(device);
    rows.load({3, 1});
    reinterpret_cast<int32_t*>(rows.pinned.data() + 1024)[0] = 2;  // the copy may not have read it yet
    rows.gather();
    wrong += rows.result() != rows_of(3, 1);
  }
  EXPECT_GT(wrong, 10);
}

TEST(EmulatedDevice, WhoOnlyAsksSeesItDoneInTheEnd) {
  EmulatedDevice device({});
  Rows rows(device);
  EXPECT_TRUE(*device.done());
  rows.load({3, 1});
  rows.gather();
  EXPECT_TRUE(device.copy_out(rows.pinned.data() + 2048, reinterpret_cast<std::byte*>(rows.y), 32).ok());
  int asked = 0;
  while (!*device.done()) ++asked;
  EXPECT_GT(asked, 0);
  EXPECT_EQ(reinterpret_cast<uint16_t*>(rows.pinned.data() + 2048)[0], 24);
}

TEST(EmulatedDevice, AGraphKeepsItsArgumentsAndReadsMemoryAnew) {
  EmulatedDevice device({});
  Rows rows(device);
  rows.load({0, 0});
  EXPECT_EQ(rows.result(), std::vector<uint16_t>(16, 0xFFFF));  // fresh memory is all ones
  ASSERT_TRUE(device.begin_capture().ok());
  rows.gather();
  const Device::Graph graph = device.end_capture().value();
  EXPECT_EQ(rows.result(), std::vector<uint16_t>(16, 0xFFFF));  // written down, not done
  for (const int row : {1, 2}) {
    rows.load({row, 3});
    ASSERT_TRUE(device.replay(graph).ok());
    EXPECT_EQ(rows.result(), rows_of(row, 3));
  }
  device.release(graph);
}

// A call sees what was given before it, is seen behind its join, and between the two has happened or not.
TEST(EmulatedDevice, ACallOfTheHostRunsBesideTheQueue) {
  struct Call {
    const uint16_t* from;
    uint16_t* to;
  };
  int early = 0;
  constexpr uint64_t kSeeds = 20;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EmulatedDevice device({.seed = seed});
    Rows rows(device);
    auto* pinned = reinterpret_cast<uint16_t*>(rows.pinned.data());
    uint16_t *in = pinned + 600, *out = pinned + 601;
    const auto bytes = [](uint16_t* value) { return reinterpret_cast<std::byte*>(value); };
    *out = 0;
    Call call{in, out};
    rows.load({3, 1});
    rows.gather();
    ASSERT_TRUE(device.copy_out(bytes(in), reinterpret_cast<std::byte*>(rows.y), 2).ok());
    const auto run = [](void* context) {
      const Call& c = *static_cast<const Call*>(context);
      *c.to = static_cast<uint16_t>(*c.from + 1);
    };
    ASSERT_TRUE(device.fork_call({.run = run, .context = &call}).ok());
    ASSERT_TRUE(device.copy_in(reinterpret_cast<std::byte*>(rows.y), bytes(out), 2).ok());  // beside it: a mistake
    ASSERT_TRUE(device.join_call().ok());
    ASSERT_TRUE(device.copy_in(reinterpret_cast<std::byte*>(rows.y + 1), bytes(out), 2).ok());
    const std::vector<uint16_t> result = rows.result();
    early += result[0] == 25;
    EXPECT_EQ(result[1], 25);
  }
  EXPECT_GT(early, 0);
  EXPECT_LT(early, static_cast<int>(kSeeds));
}

TEST(EmulatedDevice, TheWaitIsForACallThatNobodyJoined) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    EmulatedDevice device({.seed = seed});
    int calls = 0;
    const auto run = [](void* context) { ++*static_cast<int*>(context); };
    ASSERT_TRUE(device.fork_call({.run = run, .context = &calls}).ok());
    device.fail_call(1);
    EXPECT_FALSE(device.join_call().ok());
    EXPECT_TRUE(device.wait().ok());
    EXPECT_EQ(calls, 1);
  }
}

TEST(EmulatedDevice, MemoryRunsOut) {
  EmulatedDevice device({.memory_bytes = 1000});
  const auto half = DeviceBuffer::allocate(device, 500);
  EXPECT_EQ(device.free_bytes().value(), 500);
  EXPECT_EQ(DeviceBuffer::allocate(device, 501).status().code(), StatusCode::kResourceExhausted);
}

TEST(EmulatedDevice, FailsTheCallThatATestNames) {
  EmulatedDevice device({});
  const auto memory = DeviceBuffer::allocate(device, 8);
  device.fail_call(2);
  EXPECT_TRUE(device.fill(memory->data(), 0, 8).ok());
  EXPECT_EQ(device.fill(memory->data(), 0, 8).code(), StatusCode::kInternal);
  EXPECT_TRUE(device.fill(memory->data(), 0, 8).ok());
}

TEST(EmulatedDevice, MarksMeasure) {
  EmulatedDevice device({});
  const Device::Event begin = device.mark().value(), end = device.mark().value();
  ASSERT_TRUE(device.wait().ok());
  EXPECT_GE(device.seconds_between(begin, end).value(), 0);
  device.release(begin);
  device.release(end);
}

TEST(EmulatedDeviceDeathTest, TheHostMayNotTouchDeviceMemory) {
  EmulatedDevice device({});
  const auto memory = DeviceBuffer::allocate(device, 8);
  EXPECT_DEATH(*memory->data() = std::byte{1}, "AddressSanitizer");
  std::byte host[16] = {};
  EXPECT_DEATH((void)device.copy_in(memory->data(), host, 16), "16 bytes at .* are not in one allocation");
  EXPECT_DEATH((void)device.copy_in(host, memory->data(), 8), "not in one allocation");
  const auto touch = [](void* device_memory) { *static_cast<std::byte*>(device_memory) = std::byte{1}; };
  EXPECT_DEATH(
      {
        (void)device.fork_call({.run = touch, .context = memory->data()});
        (void)device.join_call();
        (void)device.wait();
      },
      "AddressSanitizer");
}

}  // namespace
}  // namespace sluice
