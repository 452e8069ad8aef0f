// Hyper-connections (DeepSeek-V4). A row belongs to one thread; lanes are the n n weights of a row, then values of the
// residual stream. Stages as in ref/hyper_connections.cc, in f32.
#include <algorithm>
#include <limits>

#include "sluice/check.h"

#include "kernels/cpu/backend.h"
#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

namespace {

constexpr int64_t kMaxWeights = kMaxStreams * (kMaxStreams + 2);
// Values a thread should have to itself before another is worth waking (a few us of work).
constexpr int64_t kGrainValues = 1 << 14;
// A row's balancing is n n divisions in each half of an iteration, 640 with 4 streams and 20 iterations: some 2 us.
constexpr int64_t kGrainRows = 4;

int64_t row_grain(int64_t values_per_row) { return std::max<int64_t>(1, kGrainValues / values_per_row); }

// values[count] -> sigmoid, in place.
void sigmoid(float* values, int64_t count) {
  const F32x16 one = broadcast(1.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t lanes = std::min<int64_t>(kLanes, count - i);
    store_first(values + i, one / (one + exp(zero() - load_first(values + i, lanes))), lanes);
  }
}

// The n values first, first + step, ...: divided by their sum plus eps.
void divide(float* m, int32_t n, int32_t step, float eps) {
  float sum = m[0];
  for (int32_t i = 1; i < n; ++i) sum += m[i * step];
  sum += eps;
  for (int32_t i = 0; i < n; ++i) m[i * step] /= sum;
}

// m[n][n] in place: softmax of rows, then columns and rows in turn.
void balance(float* m, int32_t n, int32_t iterations, float eps) {
  for (int32_t j = 0; j < n; ++j) {
    float* row = m + j * n;
    const F32x16 peak = broadcast(*std::max_element(row, row + n));
    store_first(row, exp(load_first(row, n) - peak), n);
    divide(row, n, 1, 0);
    for (int32_t k = 0; k < n; ++k) row[k] += eps;
  }
  for (int32_t iteration = 0; iteration < iterations; ++iteration) {
    if (iteration > 0)
      for (int32_t j = 0; j < n; ++j) divide(m + j * n, n, 1, eps);
    for (int32_t k = 0; k < n; ++k) divide(m + k, n, n, eps);
  }
}

void weigh_row(const HyperWeightsArgs& args, int64_t row) {
  const int32_t n = args.streams;
  const int64_t width = args.post ? int64_t{n} * (n + 2) : n;
  alignas(64) float values[kMaxWeights];
  const float* logits = args.logits + row * width;
  for (int64_t i = 0; i < width; ++i) values[i] = logits[i] * args.scale[i < n ? 0 : i < 2 * n ? 1 : 2] + args.base[i];
  sigmoid(values, std::min<int64_t>(2 * n, width));
  for (int32_t j = 0; j < n; ++j) args.pre[row * n + j] = values[j] + args.eps;
  if (args.post == nullptr) return;
  for (int32_t k = 0; k < n; ++k) args.post[row * n + k] = 2 * values[n + k];
  balance(values + 2 * n, n, args.iterations, args.eps);
  std::copy_n(values + 2 * n, n * n, args.mix + row * n * n);
}

}  // namespace

void hyper_weights(const HyperWeightsArgs& args, OpContext& context) {
  SLUICE_CHECK(args.streams >= 1 && args.streams <= kMaxStreams, "streams={}", args.streams);
  context.team.parallel_for(args.rows, kGrainRows, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) weigh_row(args, row);
  });
}

void hyper_collapse(const HyperCollapseArgs& args, OpContext& context) {
  const int64_t n = args.streams;
  context.team.parallel_for(args.rows, row_grain(n * args.hidden), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x + row * n * args.hidden;
      for (int64_t i = 0; i < args.hidden; i += kLanes) {
        const int64_t lanes = std::min<int64_t>(kLanes, args.hidden - i);
        F32x16 sum = zero();
        for (int64_t j = 0; j < n; ++j)
          sum = fma(broadcast(args.pre[row * n + j]), load_first(x + j * args.hidden + i, lanes), sum);
        store_first(args.u + row * args.hidden + i, sum, lanes);
      }
    }
  });
}

void hyper_expand(const HyperExpandArgs& args, OpContext& context) {
  SLUICE_CHECK(args.streams >= 1 && args.streams <= kMaxStreams, "streams={}", args.streams);
  const int64_t n = args.streams;
  context.team.parallel_for(args.rows, row_grain(n * args.hidden), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* mix = args.mix + row * n * n;
      float* x = args.x + row * n * args.hidden;
      for (int64_t i = 0; i < args.hidden; i += kLanes) {
        const int64_t lanes = std::min<int64_t>(kLanes, args.hidden - i);
        F32x16 old[kMaxStreams];
        for (int64_t j = 0; j < n; ++j) old[j] = load_first(x + j * args.hidden + i, lanes);
        const F32x16 y = load_first(args.y + row * args.hidden + i, lanes);
        for (int64_t k = 0; k < n; ++k) {
          F32x16 sum = broadcast(args.post[row * n + k]) * y;
          for (int64_t j = 0; j < n; ++j) sum = fma(broadcast(mix[j * n + k]), old[j], sum);
          store_first(x + k * args.hidden + i, sum, lanes);
        }
      }
    }
  });
}

}  // namespace sluice::cpu::SLUICE_ISA
