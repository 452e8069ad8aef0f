// W8A16: e4m3 weights in blocks of 128 x 128 that share a scale, as DeepSeek-V3's checkpoints hold them. A byte s eeee
// mmm, its sign and its other bits 4 places apart in a bf16, is the weight times 2^-120, subnormals included; one fma
// by 2^120 gives it exactly. That works the same from sm_80 on, where no instruction converts e4m3.
#include "kernels/cuda/gemm_pipeline.cuh"

namespace sluice::cuda {

struct Fp8Format {
  static constexpr int kGroup = 128;
  static constexpr int kStages = 4, kVectors = 2;
  static_assert(kGemmBlockN == 128, "a block of outputs has one scale per group");

  struct Stage {
    Vec16 words[kBlockStrips][kVectors][kWarp];
    float scale;
  };

  __device__ __forceinline__ static void load(Stage& stage, const GemmParams& params, const GemmBlock& block,
                                              int32_t step) {
    load_strips<kVectors>(stage.words, params, block, step);
    if (threadIdx.x == 0) {
      const int64_t row = static_cast<int64_t>(block.expert) * gridDim.x + blockIdx.x;  // of 128 outputs
      cp_async_4(&stage.scale, params.block_scales + row * (params.k / kGroup) + step * kGemmStep / kGroup);
    }
  }

  struct Step {
    const Stage& stage;

    __device__ __forceinline__ explicit Step(const Stage& source) : stage(source) {}

    __device__ __forceinline__ void fragment(int strip, int block, uint32_t (&a)[4]) const {
      constexpr uint32_t kTwoTo120 = 0x7B807B80, kZero = 0;  // pairs of bf16
      const Vec16& words = stage.words[warp_id() * kWarpStrips + strip][block / 2][lane_id()];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t word = words.words[block % 2 * 2 + j / 2];
        const uint32_t bytes = j % 2 == 0 ? word << 8 : word;  // the pair in the upper bytes of both halves
        a[j] = fma_bf16x2(and_or(bytes >> 4, 0x07F007F0, bytes & 0x80008000), kTwoTo120, kZero);
      }
    }

    __device__ __forceinline__ float scale(int, int, int) const { return stage.scale; }
  };
};

void fp8_gemm(const GemmParams& params, const GemmConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.group == 128, params.group);
  dispatch_gemm<Fp8Format>(params, config, stream);
}

}  // namespace sluice::cuda
