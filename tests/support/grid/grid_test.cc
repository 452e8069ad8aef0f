// The emulator itself: indices, order, barriers, memory, and the three planted bugs that it exists to catch: a missing
// barrier, an access out of bounds, lanes that disagree. The instructions are in instructions_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <set>
#include <vector>

#include "kernels/cuda/device.cuh"

namespace sluice::cuda {
namespace {

constexpr int kSeeds = 20;

struct Order {
  int32_t next = 0;
  std::vector<int32_t> at;  // at[global thread] = its turn
};

void note_turn(Order* order, int32_t width) {
  const auto block = static_cast<int32_t>((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x);
  const auto thread = static_cast<int32_t>((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
  order->at.at(static_cast<size_t>(block * width + thread)) = order->next++;
}

std::vector<int32_t> turns(uint64_t seed) {
  grid::configure({.seed = seed});
  Order order;
  order.at.assign(3 * 2 * 2 * 64, -1);
  launch(note_turn, dim3(3, 2, 2), dim3(8, 4, 2), 0, nullptr, &order, 64);
  return order.at;
}

TEST(Grid, RunsEveryThreadOnceInAnOrderThatTheSeedDecides) {
  const std::vector<int32_t> first = turns(1);
  std::vector<int32_t> sorted = first, want(first.size());
  std::sort(sorted.begin(), sorted.end());
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(sorted, want);
  EXPECT_NE(first, want);
  EXPECT_EQ(turns(1), first);
  EXPECT_NE(turns(2), first);
}

TEST(Grid, AnEmptyGridRunsNothing) {
  launch(note_turn, dim3(0), dim3(32), 0, nullptr, static_cast<Order*>(nullptr), 0);
}

struct Partials {
  float values[256];
};

// Sums x[0, 256) through shared memory; the planted bug is the barrier that is not there.
template <bool kWithBarrier>
void sum_through_shared(const float* x, float* out) {
  auto& partials = static_shared<Partials>();
  const auto thread = static_cast<int>(threadIdx.x);
  partials.values[thread] = x[thread];
  if constexpr (kWithBarrier) __syncthreads();
  for (int width = 128; width > 0; width /= 2) {
    if (thread < width) partials.values[thread] += partials.values[thread + width];
    __syncthreads();
  }
  if (thread == 0) out[blockIdx.x] = partials.values[0];
}

TEST(Grid, AMissingBarrierIsCaught) {
  std::vector<float> x(256);
  std::iota(x.begin(), x.end(), 1.0f);
  int wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    std::vector<float> good(6), bad(6);
    launch(sum_through_shared<true>, dim3(6), dim3(256), 0, nullptr, x.data(), good.data());
    EXPECT_EQ(good, std::vector<float>(6, 256 * 257 / 2)) << "seed " << seed;
    launch(sum_through_shared<false>, dim3(6), dim3(256), 0, nullptr, x.data(), bad.data());
    wrong += bad != good;
  }
  EXPECT_EQ(wrong, kSeeds);
}

// The same bug between a block's use of its memory and the next use.
template <bool kWithBarrier>
void rotate_twice(int32_t* out) {
  auto& values = *static_cast<int32_t(*)[64]>(static_cast<void*>(&static_shared<Partials>()));
  const auto thread = static_cast<int>(threadIdx.x);
  int32_t value = thread;
  for (int round = 0; round < 2; ++round) {
    values[thread] = value;
    __syncthreads();
    value = values[(thread + 1) % 64];
    if constexpr (kWithBarrier) __syncthreads();
  }
  out[thread] = value;
}

TEST(Grid, AMissingBarrierBeforeReuseIsCaught) {
  int wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    std::vector<int32_t> good(64), bad(64);
    launch(rotate_twice<true>, dim3(1), dim3(64), 0, nullptr, good.data());
    for (int i = 0; i < 64; ++i) EXPECT_EQ(good[static_cast<size_t>(i)], (i + 2) % 64);
    launch(rotate_twice<false>, dim3(1), dim3(64), 0, nullptr, bad.data());
    wrong += bad != good;
  }
  EXPECT_EQ(wrong, kSeeds);
}

void write_at(int32_t* out, int32_t index) {
  if (threadIdx.x == 7) out[index] = 1;
}
void write_shared_at(int32_t index) {
  auto& partials = dynamic_shared<Partials>();
  if (threadIdx.x == 7) partials.values[index] = 1;
}
void write_local_at(int32_t index, int32_t* out) {
  int32_t values[8] = {};
  values[index + static_cast<int>(threadIdx.x) / 31] = 1;
  warp_sync();
  out[threadIdx.x] = values[threadIdx.x % 8];
}
void ask_for_plan() { dynamic_shared<Partials>().values[0] = 1; }

TEST(GridDeathTest, AnAccessOutOfBoundsIsCaught) {
  std::vector<int32_t> out(32);
  out.shrink_to_fit();
  launch(write_at, dim3(1), dim3(32), 0, nullptr, out.data(), 31);
  EXPECT_EQ(out[31], 1);
  EXPECT_DEATH(launch(write_at, dim3(1), dim3(32), 0, nullptr, out.data(), 32), "heap-buffer-overflow.*write_at");
  EXPECT_DEATH(launch(write_at, dim3(1), dim3(32), 0, nullptr, out.data(), -1), "heap-buffer-overflow.*write_at");
  launch(write_shared_at, dim3(1), dim3(32), sizeof(Partials), nullptr, 255);
  EXPECT_DEATH(launch(write_shared_at, dim3(1), dim3(32), sizeof(Partials), nullptr, 256),
               "heap-buffer-overflow.*write_shared_at|index 256 out of bounds");
  launch(write_local_at, dim3(1), dim3(32), 0, nullptr, 6, out.data());
  EXPECT_DEATH(launch(write_local_at, dim3(1), dim3(32), 0, nullptr, 7, out.data()),
               "stack-buffer-overflow.*write_local_at|index 8 out of bounds");
  EXPECT_DEATH(launch(ask_for_plan, dim3(1), dim3(32), sizeof(Partials) - 1, nullptr),
               "plan of 1024 bytes in a launch with 1023");
}

// Every block finds its memory as nobody left it.
void look_and_leave(int32_t* seen) {
  auto& fixed = static_shared<Partials>();
  auto& sized = dynamic_shared<Partials>();
  if (threadIdx.x == 0) {
    seen[2 * blockIdx.x] = static_cast<int32_t>(f32_to_bits(fixed.values[5]));
    seen[2 * blockIdx.x + 1] = static_cast<int32_t>(f32_to_bits(sized.values[5]));
    fixed.values[5] = sized.values[5] = 1;
  }
}

TEST(Grid, SharedMemoryStartsPoisoned) {
  grid::configure({.seed = 3, .resident_blocks = 2});
  std::vector<int32_t> seen(20, 0);
  launch(look_and_leave, dim3(10), dim3(32), sizeof(Partials), nullptr, seen.data());
  EXPECT_EQ(seen, std::vector<int32_t>(20, -1));
}

void some_leave_early() {
  if (threadIdx.x >= 40) return;
  __syncthreads();
}
void disagree() {
  if (lane_id() < 16) {
    ballot(true);
  } else {
    warp_sync();
  }
}
void disagree_in_mask() { shuffle_xor(1, lane_id() == 3 ? 2 : 1); }
void wait_for_ever(const int32_t* flag) {
  wait_until([&] { return load_acquire(flag) != 0; });
}

TEST(GridDeathTest, WhatCannotGoOnIsCaught) {
  grid::configure({.seed = 1});
  EXPECT_DEATH(launch(some_leave_early, dim3(1), dim3(64), 0, nullptr),
               "deadlock.*24 threads of block \\(0, 0, 0\\): have returned.*40 threads .* wait in __syncthreads");
  EXPECT_DEATH(launch(disagree, dim3(1), dim3(32), 0, nullptr), "while another lane of its warp is in");
  EXPECT_DEATH(launch(disagree_in_mask, dim3(1), dim3(32), 0, nullptr),
               "shuffle_xor\\(. while|shuffle_xor\\(.\\) while");
  const int32_t never = 0;
  EXPECT_DEATH(launch(wait_for_ever, dim3(1), dim3(32), 0, nullptr, &never), "wait_until has been false");
  EXPECT_DEATH(launch(some_leave_early, dim3(1), dim3(48), 0, nullptr), "a block of 48 threads");
}

// The two halves of the block meet among themselves, any number of times.
void halves_meet(int32_t* out) {
  auto& values = dynamic_shared<Partials>();
  const auto thread = static_cast<int>(threadIdx.x);
  const int half = thread / 64;
  for (int round = 0; round < 1 + half; ++round) {
    values.values[thread] = static_cast<float>(thread + round);
    named_barrier(1 + half, 64);
    out[thread] = static_cast<int32_t>(values.values[half * 64 + (thread + 1) % 64]);
    named_barrier(1 + half, 64);
  }
}

TEST(Grid, NamedBarriersHoldTheirThreadsOnly) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    std::vector<int32_t> out(128);
    launch(halves_meet, dim3(1), dim3(128), sizeof(Partials), nullptr, out.data());
    for (int i = 0; i < 128; ++i) ASSERT_EQ(out[static_cast<size_t>(i)], i / 64 * 64 + (i + 1) % 64 + i / 64);
  }
}

// Blocks in a chain: each waits for the one before it. And one counter that all add to.
void chain(int32_t* turn, int32_t* values, int32_t* count) {
  atomic_add(count, 1);
  const auto block = static_cast<int32_t>(blockIdx.x);
  if (threadIdx.x == 0) {
    wait_until([&] { return load_acquire(turn) == block; });
    values[block] = block == 0 ? 1 : 2 * values[block - 1];
    store_release(turn, block + 1);
  }
}

TEST(Grid, BlocksWaitForEachOther) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed, .resident_blocks = 8});
    int32_t turn = 0, count = 0;
    std::vector<int32_t> values(8, -1);
    launch(chain, dim3(8), dim3(32), 0, nullptr, &turn, values.data(), &count);
    EXPECT_EQ(values, (std::vector<int32_t>{1, 2, 4, 8, 16, 32, 64, 128}));
    EXPECT_EQ(count, 256);
  }
}

}  // namespace
}  // namespace sluice::cuda
