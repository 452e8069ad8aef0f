// Hyper-connections (DeepSeek-V4): weights from logits, streams into a block and back. In double, rounded once.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/ref/ref.h"

namespace sluice::ref {

namespace {

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }

// m[n][n] in place.
void balance(std::vector<double>& m, size_t n, int32_t iterations, double eps) {
  const auto divide = [&](size_t first, size_t step) {
    double sum = eps;
    for (size_t i = 0; i < n; ++i) sum += m[first + i * step];
    for (size_t i = 0; i < n; ++i) m[first + i * step] /= sum;
  };
  const auto divide_columns = [&] {
    for (size_t k = 0; k < n; ++k) divide(k, n);
  };
  for (size_t j = 0; j < n; ++j) {
    const auto row = m.begin() + static_cast<int64_t>(j * n), end = row + static_cast<int64_t>(n);
    const double peak = *std::max_element(row, end);
    double sum = 0;
    for (auto value = row; value != end; ++value) sum += * value = std::exp(*value - peak);
    for (auto value = row; value != end; ++value) *value = *value / sum + eps;
  }
  divide_columns();
  for (int32_t iteration = 1; iteration < iterations; ++iteration) {
    for (size_t j = 0; j < n; ++j) divide(j * n, 1);
    divide_columns();
  }
}

}  // namespace

void hyper_weights(const HyperWeightsArgs& args, OpContext&) {
  const auto n = static_cast<size_t>(args.streams);
  const size_t width = args.post ? n * (n + 2) : n;
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* logits = args.logits + row * static_cast<int64_t>(width);
    const auto at = [&](size_t i, size_t part) { return double{logits[i]} * args.scale[part] + args.base[i]; };
    const int64_t first = row * args.streams;
    for (size_t j = 0; j < n; ++j)
      args.pre[first + static_cast<int64_t>(j)] = static_cast<float>(sigmoid(at(j, 0)) + args.eps);
    if (args.post == nullptr) continue;
    for (size_t k = 0; k < n; ++k)
      args.post[first + static_cast<int64_t>(k)] = static_cast<float>(2 * sigmoid(at(n + k, 1)));
    std::vector<double> mix;
    for (size_t i = 0; i < n * n; ++i) mix.push_back(at(2 * n + i, 2));
    balance(mix, n, args.iterations, args.eps);
    std::transform(mix.begin(), mix.end(), args.mix + first * args.streams,
                   [](double value) { return static_cast<float>(value); });
  }
}

void hyper_collapse(const HyperCollapseArgs& args, OpContext&) {
  for (int64_t row = 0; row < args.rows; ++row) {
    for (int64_t i = 0; i < args.hidden; ++i) {
      double sum = 0;
      for (int32_t j = 0; j < args.streams; ++j)
        sum += double{args.pre[row * args.streams + j]} * args.x[(row * args.streams + j) * args.hidden + i];
      args.u[row * args.hidden + i] = static_cast<float>(sum);
    }
  }
}

void hyper_expand(const HyperExpandArgs& args, OpContext&) {
  const int32_t n = args.streams;
  std::vector<double> old(static_cast<size_t>(n));
  for (int64_t row = 0; row < args.rows; ++row) {
    const float* mix = args.mix + row * n * n;
    for (int64_t i = 0; i < args.hidden; ++i) {
      float* x = args.x + row * n * args.hidden + i;
      for (int32_t j = 0; j < n; ++j) old[static_cast<size_t>(j)] = x[j * args.hidden];
      for (int32_t k = 0; k < n; ++k) {
        double sum = double{args.post[row * n + k]} * args.y[row * args.hidden + i];
        for (int32_t j = 0; j < n; ++j) sum += mix[j * n + k] * old[static_cast<size_t>(j)];
        x[k * args.hidden] = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace sluice::ref
