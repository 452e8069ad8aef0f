#include "engine/expert_load.h"

#include <algorithm>
#include <utility>

#include "sluice/check.h"

namespace sluice {

ExpertLoad::ExpertLoad(std::vector<int32_t> layers, int32_t num_experts)
    : layers_(std::move(layers)),
      num_experts_(num_experts),
      rows_(std::make_unique<std::atomic<int64_t>[]>(layers_.size() * static_cast<size_t>(num_experts))) {
  observer_.routed = [this](int32_t layer, int64_t rows, int32_t top_k, const int32_t* experts, const float*) {
    count(layer, rows * top_k, experts);
  };
}

void ExpertLoad::count(int32_t layer, int64_t num_chosen, const int32_t* experts) {
  const auto place = std::ranges::lower_bound(layers_, layer);
  SLUICE_CHECK(place != layers_.end() && *place == layer, "layer {} has no router", layer);
  std::atomic<int64_t>* of_layer = rows_.get() + (place - layers_.begin()) * num_experts_;
  for (int64_t i = 0; i < num_chosen; ++i) {
    std::atomic<int64_t>& counter = of_layer[experts[i]];
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
}

std::vector<int64_t> ExpertLoad::rows() const {
  std::vector<int64_t> result(layers_.size() * static_cast<size_t>(num_experts_));
  for (size_t i = 0; i < result.size(); ++i) result[i] = rows_[i].load(std::memory_order_relaxed);
  return result;
}

}  // namespace sluice
