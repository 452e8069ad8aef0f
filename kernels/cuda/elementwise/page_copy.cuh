// Pages between pools or within one: 16 bytes a thread and turn, blocks (part of a page, page).
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kPageCopyThreads = 256;
constexpr int64_t kPageCopyBytes = 16 * 1024;  // of a block: four turns

__global__ void __launch_bounds__(kPageCopyThreads) page_copy_kernel(const PageCopyParams params) {
  const auto index = static_cast<int64_t>(blockIdx.y);
  const int64_t from = params.from ? params.from[index] : index, to = params.to ? params.to[index] : index;
  const auto* source = static_cast<const unsigned char*>(params.source) + from * params.source_stride;
  auto* target = static_cast<unsigned char*>(params.target) + to * params.target_stride;
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kPageCopyBytes;
  const int64_t end = begin + kPageCopyBytes < params.page_bytes ? begin + kPageCopyBytes : params.page_bytes;
  for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * 16; i < end; i += kPageCopyThreads * 16)
    store16(target + i, load16(source + i));
}

void page_copy(const PageCopyParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.page_bytes > 0 && params.page_bytes % 16 == 0, params.page_bytes);
  SLUICE_PRECONDITION(params.source_stride % 16 == 0 && params.target_stride % 16 == 0, params.source_stride,
                      params.target_stride);
  launch(page_copy_kernel,
         dim3(static_cast<unsigned>(ceil_div(params.page_bytes, kPageCopyBytes)), static_cast<unsigned>(params.pages)),
         dim3(kPageCopyThreads), 0, stream, params);
}

}  // namespace sluice::cuda
