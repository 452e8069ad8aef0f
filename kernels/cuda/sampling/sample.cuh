// One token a row, a block a row: the peak, then the cuts in turn, each narrowing what the next one sees, then the draw
// in order of ids. Without cuts a row of 130,000 logits is read four times, from the second on from L2.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/logits_row.cuh"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/sampling/sampling.h"

namespace sluice::cuda {

// The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
__device__ __forceinline__ uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// The uniform draw of src/engine/sampler.h, 53 bits of it, as Q0.64.
__device__ __forceinline__ uint64_t keyed_draw(uint64_t seed, uint64_t position) {
  return mix_bits(mix_bits(seed + 0x9e3779b97f4a7c15) ^ (position * 0xd1342543de82ef95 + 1)) >> 11 << 11;
}

// ceil(total * fraction), at least 1; fraction in (0, 1).
__device__ __forceinline__ uint64_t share_of(uint64_t total, float fraction) {
  const auto fixed = static_cast<uint64_t>(fraction * 0x1p64f);  // exact
  const uint64_t share = multiply_high(total, fixed) + (total * fixed != 0 ? 1 : 0);
  return share > 0 ? share : 1;
}

__global__ void __launch_bounds__(kSelectThreads) sample_kernel(const SampleParams params) {
  auto& shared = static_shared<WeightShared>();
  const SampleRow draw = params.draws[blockIdx.x];
  LogitsRow row{params.logits + static_cast<int64_t>(blockIdx.x) * params.vocab, 0, draw.temperature};
  const int32_t largest = most_likely(row.logits, params.vocab, shared);
  row.peak = row.logits[largest];
  int32_t token = largest;
  if (draw.temperature > 0) {
    Cut cut;
    const auto key_at = [&](int32_t i) {
      const uint32_t key = LogitsRow::key(row.distance(i));
      return cut.keeps(key, i) ? key : kNoKey;
    };
    if (draw.top_k > 0) {
      cut = select_cut(
          params.vocab, shared, key_at, [](int32_t) { return uint64_t{1}; },
          [&](uint64_t) { return static_cast<uint64_t>(draw.top_k); });
    }
    const auto weight_at = [&](int32_t i) {
      const float distance = row.distance(i);
      return cut.keeps(LogitsRow::key(distance), i) ? LogitsRow::weight(distance) : 0;
    };
    if (draw.top_p < 1) {
      __syncthreads();
      const Cut narrower = select_cut(params.vocab, shared, key_at, weight_at,
                                      [&](uint64_t total) { return share_of(total, draw.top_p); });
      if (narrower.key < cut.key || (narrower.key == cut.key && narrower.index < cut.index)) cut = narrower;
    }
    __syncthreads();
    const auto least = static_cast<uint64_t>(draw.min_p * static_cast<float>(uint64_t{1} << kWeightBits));
    const auto kept_at = [&](int32_t i) {
      const uint64_t weight = weight_at(i);
      return weight >= least ? weight : 0;
    };
    const int32_t drawn = find_in_order(params.vocab, shared, kept_at, [&](uint64_t total) {
      return multiply_high(total, keyed_draw(draw.seed, draw.position)) + 1;
    });
    if (drawn != kNoIndex) token = drawn;  // else no logit is a number: the caller sees it in the logprobs
  }
  if (threadIdx.x == 0) params.tokens[blockIdx.x] = token;
}

void sample(const SampleParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.vocab > 0 && params.vocab <= kMaxVocab, params.vocab);
  launch(sample_kernel, dim3(static_cast<unsigned>(params.rows)), dim3(kSelectThreads), 0, stream, params);
}

}  // namespace sluice::cuda
