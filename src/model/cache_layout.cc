#include "model/cache_layout.h"

#include <numeric>

namespace sluice {

KvLayout cache_layout(const ModelConfig& config, DType dtype) {
  std::vector<int32_t> layers(static_cast<size_t>(config.num_hidden_layers));
  std::iota(layers.begin(), layers.end(), 0);
  KvLayout layout;
  layout.groups.push_back(
      {.name = "latent", .layers = layers, .bytes_per_entry = config.latent_dim() * size_of(dtype)});
  if (config.index_topk > 0)
    layout.groups.push_back(
        {.name = "index", .layers = layers, .bytes_per_entry = config.index_head_dim * size_of(dtype)});
  if (config.block_global) {
    std::erase_if(layers, [&](int32_t layer) { return config.block_global->is_full(layer); });
    layout.groups.push_back({.name = "means",
                             .layers = layers,
                             .bytes_per_entry = config.latent_dim() * size_of(dtype),
                             .tokens_per_entry = kPageTokens});
  }
  return layout;
}

}  // namespace sluice
