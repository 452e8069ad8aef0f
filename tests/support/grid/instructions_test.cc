// The host twins against what the PTX ISA says, written out a second time: fragments by element, not by formula of the
// emulator. A wrong lane index in a kernel shows as a wrong product.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <set>
#include <vector>

#include "sluice/tensor.h"

#include "kernels/cuda/device.cuh"

namespace sluice::cuda {
namespace {

constexpr int kSeeds = 10;

void warp_words(int32_t* out) {  // [9, 32]
  const int lane = lane_id();
  const auto put = [&](int row, int32_t value) { out[row * 32 + lane] = value; };
  put(0, shuffle_xor(lane, 5));
  put(1, shuffle(lane * 10, (lane + 7) % 32));
  put(2, shuffle_up(lane, 3));
  put(3, static_cast<int32_t>(ballot(lane % 3 == 0)));
  put(4, static_cast<int32_t>(warp_max_u32(static_cast<uint32_t>(lane * 37 % 32))));
  put(5, static_cast<int32_t>(warp_sum(static_cast<float>(lane))));
  put(6, static_cast<int32_t>(warp_max(static_cast<float>(-lane))));
  put(7, warp_inclusive_sum(lane));
  put(8, static_cast<int32_t>(match_any(static_cast<uint32_t>(lane % 3))));
}

TEST(Instructions, WithinAWarp) {
  grid::configure({.seed = 4});
  std::vector<int32_t> out(9 * 32);
  launch(warp_words, dim3(1), dim3(32), 0, nullptr, out.data());
  uint32_t thirds = 0;
  for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
  for (int lane = 0; lane < 32; ++lane) {
    const auto at = [&](int row) { return out[static_cast<size_t>(row * 32 + lane)]; };
    EXPECT_EQ(at(0), lane ^ 5);
    EXPECT_EQ(at(1), (lane + 7) % 32 * 10);
    EXPECT_EQ(at(2), lane < 3 ? lane : lane - 3);
    EXPECT_EQ(at(3), static_cast<int32_t>(thirds));
    EXPECT_EQ(at(4), 31);
    EXPECT_EQ(at(5), 496);
    EXPECT_EQ(at(6), 0);
    EXPECT_EQ(at(7), lane * (lane + 1) / 2);
    EXPECT_TRUE(lane % 3 != 0 || at(8) == static_cast<int32_t>(thirds));
    EXPECT_EQ(at(8) >> lane & 1, 1);
  }
}

struct Stages {
  alignas(16) int32_t words[2][32][4];
};

// Two groups of copies; out[0] before any wait, out[1] the first stage after wait<1>, out[2] both after wait<0>.
void copy_stages(const int32_t* source, int32_t* out) {
  auto& stages = static_shared<Stages>();
  const int lane = lane_id();
  for (int stage = 0; stage < 2; ++stage) {
    cp_async_16(stages.words[stage][lane], source + (stage * 32 + lane) * 4, lane != 9);
    cp_async_commit();
  }
  out[lane] = stages.words[0][lane][1];
  cp_async_wait<1>();
  out[32 + lane] = stages.words[0][lane][1];
  out[64 + lane] = stages.words[1][lane][1];
  cp_async_wait<0>();
  out[96 + lane] = stages.words[1][lane][1];
}

TEST(Instructions, CopiesLandAtARandomMomentBeforeTheirWait) {
  alignas(16) int32_t source[256];
  for (int i = 0; i < 256; ++i) source[i] = i;
  int early = 0, late = 0, second_late = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    grid::configure({.seed = seed});
    std::vector<int32_t> out(128);
    launch(copy_stages, dim3(1), dim3(32), 0, nullptr, source, out.data());
    for (int lane = 0; lane < 32; ++lane) {
      const int32_t first = lane == 9 ? 0 : lane * 4 + 1, second = lane == 9 ? 0 : (32 + lane) * 4 + 1;
      const auto at = [&](int row) { return out[static_cast<size_t>(row * 32 + lane)]; };
      early += at(0) == first;
      late += at(0) == -1;
      EXPECT_EQ(at(1), first);
      second_late += at(2) == -1;
      EXPECT_TRUE(at(2) == second || at(2) == -1);
      EXPECT_EQ(at(3), second);
    }
  }
  EXPECT_EQ(early + late, 32 * kSeeds);
  EXPECT_GT(early, 0);
  EXPECT_GT(late, 0);
  EXPECT_GT(second_late, 0);
}

void copy_crooked(const int32_t* source) { cp_async_16(static_shared<Stages>().words, source + 1); }

TEST(InstructionsDeathTest, CopiesAreAligned) {
  alignas(16) const int32_t source[8] = {};
  EXPECT_DEATH(launch(copy_crooked, dim3(1), dim3(32), 0, nullptr, source), "not aligned to 16");
}

template <int kStride>  // 16-bit elements from row to row
struct Matrices {
  alignas(128) uint16_t rows[32][kStride];
};

template <int kStride, bool kTransposed>
void load_matrices(uint32_t* out) {
  auto& matrices = static_shared<Matrices<kStride>>();
  const int lane = lane_id();
  for (int i = 0; i < 8; ++i) matrices.rows[lane][i] = static_cast<uint16_t>(lane * 8 + i);
  warp_sync();
  uint32_t words[4];
  if constexpr (kTransposed) {
    ldmatrix_x4_transposed(words, matrices.rows[lane]);
  } else {
    ldmatrix_x4(words, matrices.rows[lane]);
  }
  for (int m = 0; m < 4; ++m) out[m * 32 + lane] = words[m];
}

template <int kStride, bool kTransposed>
void expect_matrices() {
  std::vector<uint32_t> out(128);
  launch(load_matrices<kStride, kTransposed>, dim3(1), dim3(32), 0, nullptr, out.data());
  for (uint32_t m = 0; m < 4; ++m) {
    for (uint32_t lane = 0; lane < 32; ++lane) {
      const uint32_t row = lane / 4, column = lane % 4 * 2;
      const auto element = [&](uint32_t r, uint32_t c) {
        return kTransposed ? (m * 8 + c) * 8 + r : (m * 8 + r) * 8 + c;
      };
      EXPECT_EQ(out[m * 32 + lane], element(row, column) | element(row, column + 1) << 16);
    }
  }
}

TEST(Instructions, Ldmatrix) {
  expect_matrices<8, false>();
  EXPECT_EQ(grid::last_launch().bank_conflicts, 0);
  expect_matrices<8, true>();
  expect_matrices<64, false>();  // rows 128 bytes apart: all eight in the same banks
  EXPECT_EQ(grid::last_launch().bank_conflicts, 4 * 7);
  expect_matrices<72, false>();  // 16 bytes of padding
  EXPECT_EQ(grid::last_launch().bank_conflicts, 0);
}

// One product of 16 x K by K x 8, element by element from row-major memory. kBug: a lane index gone wrong.
template <typename Element, int kDepth, typename Mma, typename Sum, bool kBug>
void multiply(const Element* a, const Element* b, Sum* d) {
  constexpr int kPerWord = 4 / static_cast<int>(sizeof(Element));
  const int lane = lane_id();
  const int group = kBug ? lane % 8 : lane / 4, t = lane % 4;
  const auto word_of = [&](const Element* first, int stride) {
    uint32_t word = 0;
    for (int e = 0; e < kPerWord; ++e) {
      uint32_t bits = 0;
      std::memcpy(&bits, first + e * stride, sizeof(Element));
      word |= bits << (32 / kPerWord * e);
    }
    return word;
  };
  uint32_t a_words[4], b_words[2];
  for (int i = 0; i < 4; ++i) {
    const int row = i % 2 == 0 ? group : group + 8;
    const int k = i < 2 ? t * kPerWord : t * kPerWord + kDepth / 2;
    a_words[i] = word_of(a + row * kDepth + k, 1);
  }
  for (int i = 0; i < 2; ++i) b_words[i] = word_of(b + (t * kPerWord + i * kDepth / 2) * 8 + lane / 4, 8);
  Sum sums[4] = {1, 1, 1, 1};
  Mma{}(sums, a_words, b_words);
  d[lane / 4 * 8 + t * 2] = sums[0];
  d[lane / 4 * 8 + t * 2 + 1] = sums[1];
  d[(lane / 4 + 8) * 8 + t * 2] = sums[2];
  d[(lane / 4 + 8) * 8 + t * 2 + 1] = sums[3];
}

struct MmaBf16 {
  void operator()(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k16_bf16(d, a, b); }
};
struct MmaF16 {
  void operator()(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k16_f16(d, a, b); }
};
struct MmaS8 {
  void operator()(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { mma_m16n8k32_s8(d, a, b); }
};

// Small integers, so that every product and sum is exact in any order.
template <typename Element, int kDepth, typename Mma, typename Sum, typename Encode>
void expect_product(Encode encode) {
  std::vector<Element> a(16 * kDepth), b(kDepth * 8);
  std::vector<Sum> want(16 * 8, 1), got(16 * 8, -7), bad(16 * 8, -7);
  const auto a_at = [](int i, int k) { return (i * 7 + k * 3) % 11 - 5; };
  const auto b_at = [](int k, int j) { return (k * 5 + j * 2) % 13 - 6; };
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < kDepth; ++k) a[static_cast<size_t>(i * kDepth + k)] = encode(a_at(i, k));
  for (int k = 0; k < kDepth; ++k)
    for (int j = 0; j < 8; ++j) b[static_cast<size_t>(k * 8 + j)] = encode(b_at(k, j));
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j)
      for (int k = 0; k < kDepth; ++k)
        want[static_cast<size_t>(i * 8 + j)] += static_cast<Sum>(a_at(i, k) * b_at(k, j));
  launch(multiply<Element, kDepth, Mma, Sum, false>, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), got.data());
  EXPECT_EQ(got, want);
  launch(multiply<Element, kDepth, Mma, Sum, true>, dim3(1), dim3(32), 0, nullptr, a.data(), b.data(), bad.data());
  EXPECT_NE(bad, want) << "the planted lane index goes unseen";
}

TEST(Instructions, MmaAndAWrongLaneIndexIsCaught) {
  expect_product<uint16_t, 16, MmaBf16, float>([](int x) { return f32_to_bf16(static_cast<float>(x)); });
  expect_product<uint16_t, 16, MmaF16, float>([](int x) { return f32_to_f16(static_cast<float>(x)); });
  expect_product<int8_t, 32, MmaS8, int32_t>([](int x) { return static_cast<int8_t>(x); });
}

void shuffle_beyond() { shuffle(1, lane_id() + 1); }

TEST(InstructionsDeathTest, ALaneBeyondTheWarpIsCaught) {
  EXPECT_DEATH(launch(shuffle_beyond, dim3(1), dim3(32), 0, nullptr), "shuffle: lane 32 outside");
}

TEST(Instructions, Numbers) {
  EXPECT_EQ(and_or(0x12345678, 0x000F000F, 0x43004300), 0x43044308u);
  EXPECT_EQ(permute_bytes(0x33221100, 0x77665544, 0x7250), 0x77225500u);
  for (const float x : {0.0f, -0.0f, 1.0f, -2.75f, 1.00390625f, 1.01171875f, 3.4e38f, 1e-40f, INFINITY, -INFINITY}) {
    EXPECT_EQ(to_bf16(x).bits, f32_to_bf16(x)) << x;
    EXPECT_EQ(f32_to_bits(to_f32(bf16{f32_to_bf16(x)})), std::bit_cast<uint32_t>(bf16_to_f32(f32_to_bf16(x)))) << x;
    EXPECT_EQ(to_f32(f16{f32_to_f16(x)}), f16_to_f32(f32_to_f16(x))) << x;
  }
  EXPECT_TRUE(std::isnan(to_f32(to_bf16(NAN))));
  EXPECT_EQ(pack_bf16(1, -2), 0xC0003F80u);
  EXPECT_EQ(fma_bf16x2(pack_bf16(3, 130), pack_bf16(1, 1), pack_bf16(-8, -136)), pack_bf16(-5, -6));
}

}  // namespace
}  // namespace sluice::cuda
