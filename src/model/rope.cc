#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace sluice {

namespace {

double yarn_mscale(double factor, double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1.0; }

double attention_factor(const YarnConfig& yarn) {
  if (yarn.attention_factor) return *yarn.attention_factor;
  if (yarn.mscale != 0 && yarn.mscale_all_dim != 0)
    return yarn_mscale(yarn.factor, yarn.mscale) / yarn_mscale(yarn.factor, yarn.mscale_all_dim);
  return yarn_mscale(yarn.factor, 1);
}

// Weight of the interpolated frequency per pair, 0 for fast pairs (kept), 1 for slow ones (stretched).
std::vector<float> yarn_ramp(const YarnConfig& yarn, double base, int32_t dim) {
  // The pair index whose wavelength makes `rotations` turns within the original context.
  const auto pair_of = [&](double rotations) {
    return dim * std::log(yarn.original_max_position_embeddings / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(base));
  };
  double low = pair_of(yarn.beta_fast), high = pair_of(yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  std::vector<float> ramp;
  for (int32_t i = 0; i < dim / 2; ++i)
    ramp.push_back(
        std::clamp((static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0f, 1.0f));
  return ramp;
}

}  // namespace

RopeTable::RopeTable(const ModelConfig& config) : RopeTable(config.qk_rope_head_dim, config.rope_theta, config.yarn) {}

RopeTable::RopeTable(int32_t dim, double theta, const std::optional<YarnConfig>& yarn) {
  for (int32_t i = 0; i < dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
    inv_freq_.push_back(1.0f / std::pow(static_cast<float>(theta), exponent));
  }
  if (!yarn) return;
  attention_factor_ = static_cast<float>(attention_factor(*yarn));
  const std::vector<float> ramp = yarn_ramp(*yarn, theta, dim);
  for (size_t i = 0; i < inv_freq_.size(); ++i) {
    const float stretched = inv_freq_[i] / static_cast<float>(yarn->factor);
    const float kept = 1.0f - ramp[i];
    inv_freq_[i] = stretched * (1.0f - kept) + inv_freq_[i] * kept;
  }
}

void RopeTable::fill(std::span<const int32_t> positions, float* out) const {
  const size_t half = inv_freq_.size();
  for (size_t row = 0; row < positions.size(); ++row) {
    float* cosines = out + row * 2 * half;
    for (size_t i = 0; i < half; ++i) {
      const float angle =
          inv_freq_[i] * static_cast<float>(positions[row]);  // one f32 product, as the models were trained
      cosines[i] = static_cast<float>(std::cos(double{angle})) * attention_factor_;
      cosines[half + i] = static_cast<float>(std::sin(double{angle})) * attention_factor_;
    }
  }
}

RopeTable window_rope(const ModelConfig& config) { return {config.qk_rope_head_dim, config.rope_theta, std::nullopt}; }

RopeTable block_rope(const ModelConfig& config) {
  std::optional<YarnConfig> yarn = config.yarn;
  if (yarn && !yarn->attention_factor) yarn->attention_factor = 1.0;
  return {config.qk_rope_head_dim, config.hybrid->compress_rope_theta, yarn};
}

float softmax_scale(const ModelConfig& config) {
  double scale = 1 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (config.yarn && config.yarn->mscale_all_dim != 0) {
    const double m = yarn_mscale(config.yarn->factor, config.yarn->mscale_all_dim);
    scale *= m * m;
  }
  return static_cast<float>(scale);
}

}  // namespace sluice
