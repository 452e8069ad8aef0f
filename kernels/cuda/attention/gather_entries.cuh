// Entries of a window of positions, out of their pages into one matrix: a block per position, 16 bytes a thread.
#include "kernels/cuda/attention/mla_prefill.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kGatherEntryThreads = 96;  // V3's entry is 72 vectors

__global__ void __launch_bounds__(kGatherEntryThreads) gather_entries_kernel(const GatherEntriesParams params) {
  const auto sequence = static_cast<int32_t>(blockIdx.y);
  const auto offset = static_cast<int32_t>(blockIdx.x);
  const int32_t position = params.window_begin + offset;
  if (position >= params.lengths[sequence]) return;
  const int64_t page = params.pages[static_cast<int64_t>(sequence) * params.max_pages + position / kPageTokens];
  const bf16* source =
      params.cache + page * params.page_stride + static_cast<int64_t>(position % kPageTokens) * params.width;
  bf16* target = params.entries + static_cast<int64_t>(params.key_begin[sequence] + offset) * params.width;
  for (int i = static_cast<int>(threadIdx.x) * kVecBf16; i < params.width; i += kGatherEntryThreads * kVecBf16)
    store16(target + i, load16(source + i));
}

void gather_entries(const GatherEntriesParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.width > 0 && params.width % kVecBf16 == 0 && params.page_stride % kVecBf16 == 0,
                      params.width, params.page_stride);
  SLUICE_PRECONDITION(params.window_begin >= 0 && params.window_begin <= params.window_end, params.window_begin,
                      params.window_end);
  SLUICE_PRECONDITION(params.window_end <= params.max_pages * kPageTokens, params.window_end, params.max_pages);
  launch(gather_entries_kernel,
         dim3(static_cast<unsigned>(params.window_end - params.window_begin), static_cast<unsigned>(params.sequences)),
         dim3(kGatherEntryThreads), 0, stream, params);
}

}  // namespace sluice::cuda
