// W4A16: 4-bit weights become exact bf16 integers in registers. 0x4300 | q is 128 + q in bf16 (its last mantissa bit is
// worth 1 there), so a nibble pair takes one mask-or and one fma by 1 with -136; the scale waits for the group's end.
#include "kernels/cuda/gemm_pipeline.cuh"

namespace sluice::cuda {

template <int kGroupInputs>
struct Int4Format {
  static constexpr int kGroup = kGroupInputs;
  static constexpr int kStages = 4, kVectors = 1;
  static constexpr int kScaleRows = kGroup < kGemmStep ? kGemmStep / kGroup : 1;  // of a step

  struct Stage {
    Vec16 words[kBlockStrips][kVectors][kWarp];
    f16 scales[kScaleRows][kGemmBlockN];
  };

  __device__ __forceinline__ static void load(Stage& stage, const GemmParams& params, const GemmBlock& block,
                                              int32_t step) {
    load_strips<kVectors>(stage.words, params, block, step);
    constexpr int kScaleVectors = kGemmBlockN / kVecBf16;  // of a row
    if (const auto i = static_cast<int>(threadIdx.x); i < kScaleRows * kScaleVectors) {
      const int row = i / kScaleVectors, column = i % kScaleVectors * kVecBf16;
      const bool valid = block.n_begin + column < params.n;
      const int64_t group = static_cast<int64_t>(block.expert) * (params.k / kGroup) + step * kGemmStep / kGroup + row;
      const f16* source = params.scales + group * params.n + block.n_begin + column;
      cp_async_16(&stage.scales[row][column], valid ? source : params.scales, valid);
    }
  }

  struct Step {
    Vec16 words[kWarpStrips];
    const Stage& stage;

    __device__ __forceinline__ explicit Step(const Stage& source) : stage(source) {
#pragma unroll
      for (int strip = 0; strip < kWarpStrips; ++strip)
        words[strip] = source.words[warp_id() * kWarpStrips + strip][0][lane_id()];
    }

    __device__ __forceinline__ void fragment(int strip, int block, uint32_t (&a)[4]) const {
      constexpr uint32_t kOne = 0x3F803F80, kMinus136 = 0xC308C308;  // pairs of bf16
      const uint32_t word = words[strip].words[block];
#pragma unroll
      for (int j = 0; j < 4; ++j) a[j] = fma_bf16x2(and_or(word >> (4 * j), 0x000F000F, 0x43004300), kOne, kMinus136);
    }

    // Of the accumulators' rows lane / 4 + 8 * upper.
    __device__ __forceinline__ float scale(int strip, int upper, int group_in_step) const {
      return to_f32(stage.scales[group_in_step][(warp_id() * kWarpStrips + strip) * 16 + lane_id() / 4 + upper * 8]);
    }
  };
};

void int4_gemm(const GemmParams& params, const GemmConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.group == 32 || params.group == 64 || params.group == 128, params.group);
  switch (params.group) {
    case 32:
      return dispatch_gemm<Int4Format<32>>(params, config, stream);
    case 64:
      return dispatch_gemm<Int4Format<64>>(params, config, stream);
    default:
      return dispatch_gemm<Int4Format<128>>(params, config, stream);
  }
}

}  // namespace sluice::cuda
