// The mean of a page's entries: a block per completed page, a thread per two columns, entries ascending.
#include "kernels/cuda/attention/block.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kMeansThreads = 128;

__global__ void __launch_bounds__(kMeansThreads) block_means_kernel(const BlockMeansParams params) {
  const auto sequence = static_cast<int32_t>(blockIdx.y);
  const int32_t length = params.lengths[sequence];
  const int32_t first = length - (params.query_begin[sequence + 1] - params.query_begin[sequence]);
  const int32_t place = first / kPageTokens + static_cast<int32_t>(blockIdx.x);
  if (first == length || place >= length / kPageTokens) return;
  const int64_t page = params.pages[static_cast<int64_t>(sequence) * params.max_pages + place];
  for (int column = static_cast<int>(threadIdx.x) * 2; column < params.width; column += kMeansThreads * 2) {
    const bf16* entry = params.cache + page * params.page_stride + column;
    float low = 0, high = 0;
    for (int i = 0; i < kPageTokens; ++i, entry += params.width) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(entry);
      low += low_f32(pair);
      high += high_f32(pair);
    }
    *reinterpret_cast<uint32_t*>(params.means + page * params.means_stride + column) =
        pack_bf16(low / kPageTokens, high / kPageTokens);
  }
}

void block_means(const BlockMeansParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.width > 0 && params.width % 2 == 0, params.width);
  SLUICE_PRECONDITION(params.page_stride % 2 == 0 && params.means_stride % 2 == 0, params.page_stride,
                      params.means_stride);
  // A chunk of m tokens ends at most m / 64 pages, and one more that it did not begin.
  launch(block_means_kernel,
         dim3(static_cast<unsigned>(params.max_queries / kPageTokens + 1), static_cast<unsigned>(params.sequences)),
         dim3(kMeansThreads), 0, stream, params);
}

}  // namespace sluice::cuda
