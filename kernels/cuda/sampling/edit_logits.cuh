// Bias, penalties and masks on single logits: a thread per edit, and the way back.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/sampling/sampling.h"

namespace sluice::cuda {

constexpr int kEditThreads = 128;

template <bool kRestore>
__global__ void __launch_bounds__(kEditThreads) edit_logits_kernel(const EditLogitsParams params) {
  const auto index = static_cast<int32_t>(blockIdx.x * kEditThreads + threadIdx.x);
  if (index >= params.num_edits) return;
  const LogitEdit edit = params.edits[index];
  float& target = params.logits[static_cast<int64_t>(edit.row) * params.vocab + edit.token];
  if constexpr (kRestore) {
    target = params.before[index];
    return;
  }
  float logit = target;
  params.before[index] = logit;
  logit += edit.bias;
  if (edit.count != LogitEdit::kNotSeen) {
    const SampleRow& row = params.rows[edit.row];
    logit = logit > 0 ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    // Not contracted to one fma: the host's sampler rounds the product, too.
    if (edit.count > 0)
      logit -= row.presence_penalty + multiply_f32(static_cast<float>(edit.count), row.frequency_penalty);
  }
  target = edit.masked ? -INFINITY : logit;
}

void edit_logits(const EditLogitsParams& params, Stream stream) {
  launch(edit_logits_kernel<false>, dim3(static_cast<unsigned>(ceil_div(params.num_edits, kEditThreads))),
         dim3(kEditThreads), 0, stream, params);
}

void restore_logits(const EditLogitsParams& params, Stream stream) {
  launch(edit_logits_kernel<true>, dim3(static_cast<unsigned>(ceil_div(params.num_edits, kEditThreads))),
         dim3(kEditThreads), 0, stream, params);
}

}  // namespace sluice::cuda
