// BF16 weights, the operands as they lie in memory.
#include "kernels/cuda/gemm_pipeline.cuh"

namespace sluice::cuda {

struct Bf16Format {
  static constexpr int kGroup = 0;
  static constexpr int kStages = 3, kVectors = 4;

  struct Stage {
    Vec16 words[kBlockStrips][kVectors][kWarp];
  };

  __device__ __forceinline__ static void load(Stage& stage, const GemmParams& params, const GemmBlock& block,
                                              int32_t step) {
    load_strips<kVectors>(stage.words, params, block, step);
  }

  struct Step {
    const Stage& stage;

    __device__ __forceinline__ explicit Step(const Stage& source) : stage(source) {}

    __device__ __forceinline__ void fragment(int strip, int block, uint32_t (&a)[4]) const {
      const Vec16 words = stage.words[warp_id() * kWarpStrips + strip][block][lane_id()];
#pragma unroll
      for (int j = 0; j < 4; ++j) a[j] = words.words[j];
    }
  };
};

void bf16_gemm(const GemmParams& params, const GemmConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.group == 0, params.group);
  dispatch_gemm<Bf16Format>(params, config, stream);
}

}  // namespace sluice::cuda
