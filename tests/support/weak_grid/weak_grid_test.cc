// Fences: blocks that hand data to each other, with the fence, without it, and with it in the wrong place; then the
// kernel that depends on one, the GEMM's split fix-up, as it is and with its fences ignored.
#include <gtest/gtest.h>

#include <vector>

#include "sluice/tensor.h"

#include "kernels/cuda/gemm/int4_gemm.cuh"
#include "kernels/cuda/gemm/plan.h"

namespace sluice::cuda {
namespace {

constexpr int kSeeds = 20;

enum class Fence { kNone, kByEveryStorer, kByOneAfterTheBarrier, kByOneBeforeTheBarrier };

// Block 0 writes 64 values and says so; block 1 waits for the word and adds them up.
template <Fence kFence>
void hand_over(int32_t* values, int32_t* ready, int32_t* sum) {
  const auto thread = static_cast<int>(threadIdx.x);
  if (blockIdx.x == 0) {
    values[thread] = thread + 1;
    if (kFence == Fence::kByEveryStorer || (kFence == Fence::kByOneBeforeTheBarrier && thread == 0)) thread_fence();
    __syncthreads();
    if (thread == 0) {
      if constexpr (kFence == Fence::kByOneAfterTheBarrier) thread_fence();
      atomic_add(ready, 1);
    }
    return;
  }
  wait_until([&] { return load_acquire(ready) == 1; });
  if (thread == 0)
    for (int i = 0; i < 64; ++i) *sum += values[i];
}

template <Fence kFence>
int wrong_sums() {
  int wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    std::vector<int32_t> values(64, 0);
    int32_t ready = 0, sum = 0;
    launch(hand_over<kFence>, dim3(2), dim3(64), 0, nullptr, values.data(), &ready, &sum);
    wrong += sum != 64 * 65 / 2;
  }
  return wrong;
}

TEST(WeakGrid, AMissingFenceIsCaught) {
  EXPECT_EQ(wrong_sums<Fence::kByEveryStorer>(), 0);
  EXPECT_EQ(wrong_sums<Fence::kByOneAfterTheBarrier>(), 0);
  EXPECT_GT(wrong_sums<Fence::kNone>(), kSeeds / 4);
  EXPECT_GT(wrong_sums<Fence::kByOneBeforeTheBarrier>(), kSeeds / 4);
}

void hand_over_by_release(int32_t* value, int32_t* ready, int32_t* seen) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    *value = 7;
    store_release(ready, 1);
  } else {
    wait_until([&] { return load_acquire(ready) == 1; });
    *seen = *value;
  }
}

TEST(WeakGrid, AReleaseOrdersWhatIsBeforeIt) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    int32_t value = 0, ready = 0, seen = 0;
    launch(hand_over_by_release, dim3(2), dim3(32), 0, nullptr, &value, &ready, &seen);
    EXPECT_EQ(seen, 7);
    EXPECT_EQ(value, 7);
  }
}

// Stores of different sizes over each other, and what a block leaves behind.
void overwrite(uint16_t* halves, Vec16* vector) {
  if (threadIdx.x != 0) return;
  store16(vector, {1, 2, 3, 4});
  halves[1] = 9;
  grid::yield();
  halves[1] = 10;
}

TEST(WeakGrid, EverythingLandsWithTheLaunchsEnd) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    Vec16 vector = {};
    launch(overwrite, dim3(1), dim3(32), 0, nullptr, reinterpret_cast<uint16_t*>(&vector), &vector);
    EXPECT_EQ(vector.words[0], 1u | 10u << 16);
    EXPECT_EQ(vector.words[3], 4u);
  }
}

// A product whose inputs are split among three blocks, all ones: every output is k.
int wrong_products(bool ignore_fences) {
  constexpr int32_t kRows = 5, kN = 128, kK = 384;
  const std::vector<bf16> x(kRows * kK, bf16{f32_to_bf16(1)});
  const std::vector<uint32_t> weights(kN * kK / 8, 0x99999999u);  // code 1
  const std::vector<f16> scales(kN * kK / 128, f16{f32_to_f16(1)});
  int wrong = 0;
  for (uint64_t seed = 0; seed < 3; ++seed) {
    grid::configure({.seed = seed, .ignore_fences = ignore_fences});
    std::vector<bf16> y(kRows * kN, bf16{0xFFFF});
    GemmParams params{.x = x.data(),
                      .weights = weights.data(),
                      .scales = scales.data(),
                      .y = y.data(),
                      .rows = kRows,
                      .n = kN,
                      .k = kK,
                      .group = 128,
                      .x_stride = kK,
                      .y_stride = kN};
    const GemmConfig config{.tile_rows = 8, .splits = 3};
    std::vector<float> workspace(static_cast<size_t>(workspace_values(params, config)), 0);
    std::vector<int32_t> counters(static_cast<size_t>(num_counters(params, config)), 0);
    params.workspace = workspace.data();
    params.counters = counters.data();
    int4_gemm(params, config, nullptr);
    for (const bf16 value : y) wrong += bf16_to_f32(value.bits) != kK;
    for (const int32_t counter : counters) wrong += counter != 0;
  }
  return wrong;
}

TEST(WeakGrid, TheSplitFixUpNeedsItsFences) {
  EXPECT_EQ(wrong_products(false), 0);
  EXPECT_GT(wrong_products(true), 0);
}

}  // namespace
}  // namespace sluice::cuda
