// Choosing among the elements of a row by one block, without sorting it: what sampling, the indexer and block attention
// share. An element has a key (u32, smaller is better, kNoKey: not there) and a measure (a count or an integer weight);
// equal keys are told apart by index, the lower one first.
//
//   select_cut       the least (key, index) up to which the measure reaches a target: a radix walk over histograms of
//                    11, 11 and 10 bits of the key, each level only among the elements of the bin chosen before
//   write_kept       the indices that are kept, ascending
//   find_in_order    the first index up to which the measure reaches a target: warps sum segments, the segment that
//                    crosses is cut again
//
// Measures are integers, so sums are the same in any order; both walks read the row a handful of times, from L2.
#pragma once

#include "kernels/cuda/device.cuh"

namespace sluice::cuda {

constexpr int kSelectThreads = 512;
constexpr int kSelectWarps = kSelectThreads / kWarp;
constexpr int kSelectBins = 2048;
constexpr int kBinsOfThread = kSelectBins / kSelectThreads;

constexpr uint32_t kNoKey = 0xFFFFFFFFu;
constexpr int32_t kNoIndex = -1;

// Smaller for larger values; NaN is kNoKey.
__device__ __forceinline__ uint32_t falling_key(float value) {
  const uint32_t bits = f32_to_bits(value);
  if (value != value) return kNoKey;
  return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

template <typename Sum>
struct SelectShared {
  Sum bins[kSelectBins];
  Sum warp_sums[kSelectWarps];
  Sum before;     // measure before the chosen bin
  int32_t found;  // bin
};

// What is kept: elements before or at (key, index).
struct Cut {
  uint32_t key = kNoKey - 1;
  int32_t index = 0x7FFFFFFF;

  __device__ __forceinline__ bool keeps(uint32_t other_key, int32_t other_index) const {
    return other_key < key || (other_key == key && other_index <= index);
  }
};

template <typename Sum>
__device__ __forceinline__ Sum warp_inclusive(Sum value) {
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const Sum below = shuffle_up(value, delta);
    if (lane_id() >= delta) value += below;
  }
  return value;
}

// Sums over the block, for every thread.
template <typename Sum>
__device__ __forceinline__ Sum block_total(Sum value, SelectShared<Sum>& shared) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  __syncthreads();  // nobody reads the sums of the use before
  if (lane_id() == 0) shared.warp_sums[warp_id()] = value;
  __syncthreads();
  Sum total = 0;
  for (int warp = 0; warp < kSelectWarps; ++warp) total += shared.warp_sums[warp];
  return total;
}

// The first index in [0, count) up to which measure_at sums to target_of(total) >= 1; kNoIndex if it never does. All
// threads receive it.
template <typename Sum, typename MeasureAt, typename TargetOf>
__device__ __forceinline__ int32_t find_in_order(int32_t count, SelectShared<Sum>& shared, MeasureAt&& measure_at,
                                                 TargetOf&& target_of) {
  int32_t begin = 0, end = count;
  Sum target = 0;
  do {
    const auto segment = static_cast<int32_t>(ceil_div(end - begin, kSelectThreads)) * kWarp;  // of a warp
    const int32_t first = begin + warp_id() * segment;
    const int32_t last = first + segment < end ? first + segment : end;
    Sum sum = 0;
    for (int32_t i = first + lane_id(); i < last; i += kWarp) sum += measure_at(i);
    for (int mask = kWarp / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    __syncthreads();  // nobody reads the sums of the round before
    if (lane_id() == 0) shared.warp_sums[warp_id()] = sum;
    __syncthreads();
    if (target == 0) {
      Sum total = 0;
      for (int warp = 0; warp < kSelectWarps; ++warp) total += shared.warp_sums[warp];
      target = target_of(total);
      if (total < target || total == 0) return kNoIndex;
    }
    int warp = 0;
    for (; warp < kSelectWarps - 1 && shared.warp_sums[warp] < target; ++warp) target -= shared.warp_sums[warp];
    begin += warp * segment;
    end = begin + segment < end ? begin + segment : end;
  } while (end - begin > kWarp);
  const Sum reached = warp_inclusive<Sum>(begin + lane_id() < end ? measure_at(begin + lane_id()) : Sum{0});
  return begin + first_bit(ballot(reached >= target));
}

// Which bin the running sum of shared.bins reaches `target` in; the measure before it is taken off the target. Returns
// -1 if the total does not reach it.
template <typename Sum, typename TargetOf>
__device__ __forceinline__ int32_t find_bin(SelectShared<Sum>& shared, Sum& target, TargetOf&& target_of) {
  const int first = static_cast<int>(threadIdx.x) * kBinsOfThread;
  Sum sum = 0;
  for (int i = 0; i < kBinsOfThread; ++i) sum += shared.bins[first + i];
  const Sum inclusive = warp_inclusive(sum);
  if (lane_id() == kWarp - 1) shared.warp_sums[warp_id()] = inclusive;
  __syncthreads();
  Sum before = inclusive - sum, total = 0;
  for (int warp = 0; warp < kSelectWarps; ++warp) {
    if (warp < warp_id()) before += shared.warp_sums[warp];
    total += shared.warp_sums[warp];
  }
  if (target == 0) target = target_of(total);
  if (total < target || total == 0) return -1;
  if (before < target && before + sum >= target) {
    int bin = first;
    for (; before + shared.bins[bin] < target; ++bin) before += shared.bins[bin];
    shared.found = bin;
    shared.before = before;
  }
  __syncthreads();
  target -= shared.before;
  return shared.found;
}

// The least cut whose elements' measures sum to target_of(total) >= 1; a cut that keeps all if they never do.
template <typename Sum, typename KeyAt, typename MeasureAt, typename TargetOf>
__device__ __forceinline__ Cut select_cut(int32_t count, SelectShared<Sum>& shared, KeyAt&& key_at,
                                          MeasureAt&& measure_at, TargetOf&& target_of) {
  Cut cut;
  Sum target = 0, of_bin = 0;
  uint32_t chosen = 0;  // the bits of the key that are known
#pragma unroll 1
  for (int shift = 21, bits = 11; shift >= 0; bits = shift == 10 ? 10 : 11, shift -= bits) {
    for (int i = static_cast<int>(threadIdx.x); i < kSelectBins; i += kSelectThreads) shared.bins[i] = 0;
    __syncthreads();
    for (auto i = static_cast<int32_t>(threadIdx.x); i < count; i += kSelectThreads) {
      const uint32_t key = key_at(i);
      if (key == kNoKey || (shift < 21 && key >> (shift + bits) != chosen)) continue;
      atomic_add(&shared.bins[key >> shift & ((1u << bits) - 1)], measure_at(i));
    }
    __syncthreads();
    const int32_t bin = find_bin(shared, target, target_of);
    if (bin < 0) return cut;
    chosen = chosen << bits | static_cast<uint32_t>(bin);
    of_bin = shared.bins[bin];
    __syncthreads();  // all have read the bin before it is cleared
  }
  cut.key = chosen;
  if (target < of_bin)  // not all of those with this key
    cut.index = find_in_order<Sum>(
        count, shared, [&](int32_t i) { return key_at(i) == chosen ? static_cast<Sum>(measure_at(i)) : Sum{0}; },
        [&](Sum) { return target; });
  return cut;
}

// Writes base + the indices in [0, count) that `kept` keeps, ascending; returns their number, to all threads. A warp
// owns a contiguous part of the row.
template <typename Sum, typename Kept>
__device__ __forceinline__ int32_t write_kept(int32_t count, SelectShared<Sum>& shared, Kept&& kept, int32_t* out,
                                              int32_t base = 0) {
  const auto segment = static_cast<int32_t>(ceil_div(count, kSelectThreads)) * kWarp;
  const int32_t first = warp_id() * segment, end = first + segment < count ? first + segment : count;
  int32_t mine = 0;
  for (int32_t begin = first; begin < end; begin += kWarp) {
    const int32_t i = begin + lane_id();
    mine += count_bits(ballot(i < end && kept(i)));
  }
  if (lane_id() == 0) shared.warp_sums[warp_id()] = static_cast<Sum>(mine);
  __syncthreads();
  int32_t place = 0, total = 0;
  for (int warp = 0; warp < kSelectWarps; ++warp) {
    if (warp < warp_id()) place += static_cast<int32_t>(shared.warp_sums[warp]);
    total += static_cast<int32_t>(shared.warp_sums[warp]);
  }
  const uint32_t lanes_before = (1u << lane_id()) - 1;
  for (int32_t begin = first; begin < end; begin += kWarp) {
    const int32_t i = begin + lane_id();
    const bool keeps = i < end && kept(i);
    const uint32_t keepers = ballot(keeps);
    if (keeps) out[place + count_bits(keepers & lanes_before)] = base + i;
    place += count_bits(keepers);
  }
  return total;
}

}  // namespace sluice::cuda
