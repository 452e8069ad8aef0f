// ln softmax of single tokens, a block a row: the sum of weights, then the cut that keeps num_top tokens, which are few
// enough to be ranked against each other.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/logits_row.cuh"
#include "kernels/cuda/precondition.h"
#include "kernels/cuda/sampling/sampling.h"

namespace sluice::cuda {

struct LogProbabilitiesShared {
  WeightShared select;
  int32_t num_kept;
  uint32_t keys[kMaxTopLogprobs];
  int32_t tokens[kMaxTopLogprobs];
};

__global__ void __launch_bounds__(kSelectThreads) log_probabilities_kernel(const LogProbabilitiesParams params) {
  auto& shared = static_shared<LogProbabilitiesShared>();
  const auto out_row = static_cast<int64_t>(blockIdx.x);
  const int64_t source = params.row_ids ? params.row_ids[out_row] : out_row;
  LogitsRow row{params.logits + source * params.vocab, 0, 1};
  row.peak = row.logits[most_likely(row.logits, params.vocab, shared.select)];

  uint64_t sum = 0;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < params.vocab; i += kSelectThreads)
    sum += LogitsRow::weight(row.distance(i));
  sum = block_total(sum, shared.select);
  const float log_sum = log_f32(static_cast<float>(sum) * (1.0f / static_cast<float>(uint64_t{1} << kWeightBits)));
  const auto logprob = [&](int32_t token) { return row.logits[token] - row.peak - log_sum; };
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread == 0) {
    params.token_logprobs[out_row] = logprob(params.tokens[out_row]);
    shared.num_kept = 0;
  }
  if (params.num_top == 0) return;

  const auto key_at = [&](int32_t i) { return falling_key(row.logits[i] == 0 ? 0.0f : row.logits[i]); };
  __syncthreads();
  const Cut cut = select_cut(
      params.vocab, shared.select, key_at, [](int32_t) { return uint64_t{1}; },
      [&](uint64_t) { return static_cast<uint64_t>(params.num_top); });
  __syncthreads();
  for (int32_t i = thread; i < params.vocab; i += kSelectThreads) {
    const uint32_t key = key_at(i);
    if (!cut.keeps(key, i)) continue;
    const int32_t place = atomic_add(&shared.num_kept, 1);
    shared.keys[place] = key;
    shared.tokens[place] = i;
  }
  __syncthreads();
  if (thread >= params.num_top) return;
  const int64_t first = out_row * params.num_top;
  if (thread >= shared.num_kept) {
    params.top_tokens[first + thread] = -1;
    params.top_logprobs[first + thread] = -INFINITY;
    return;
  }
  const Cut mine{shared.keys[thread], shared.tokens[thread]};
  int32_t rank = -1;  // itself counts
  for (int32_t i = 0; i < shared.num_kept; ++i) rank += mine.keeps(shared.keys[i], shared.tokens[i]) ? 1 : 0;
  params.top_tokens[first + rank] = mine.index;
  params.top_logprobs[first + rank] = logprob(mine.index);
}

void log_probabilities(const LogProbabilitiesParams& params, Stream stream) {
  SLUICE_PRECONDITION(params.vocab > 0 && params.vocab <= kMaxVocab, params.vocab);
  SLUICE_PRECONDITION(params.num_top >= 0 && params.num_top <= kMaxTopLogprobs, params.num_top);
  launch(log_probabilities_kernel, dim3(static_cast<unsigned>(params.rows)), dim3(kSelectThreads), 0, stream, params);
}

}  // namespace sluice::cuda
