#include "model/cache_layout.h"

#include <numeric>

#include "sluice/latent_codes.h"
#include "sluice/ops.h"

namespace sluice {

namespace {

KvLayout hybrid_layout(const ModelConfig& config, DType dtype) {
  const HybridConfig& hybrid = *config.hybrid;
  const auto layers_with = [&](auto&& wanted) {
    std::vector<int32_t> layers;
    for (int32_t layer = 0; layer < config.num_hidden_layers; ++layer)
      if (wanted(hybrid.compress_ratios[static_cast<size_t>(layer)])) layers.push_back(layer);
    return layers;
  };
  const std::vector<int32_t> all = layers_with([](int32_t) { return true; });
  const std::vector<int32_t> selected = layers_with([](int32_t ratio) { return ratio == kSelectedRatio; });
  const std::vector<int32_t> global = layers_with([](int32_t ratio) { return ratio == kGlobalRatio; });
  const int64_t dim = hybrid.head_dim, key_dim = config.index_head_dim, bytes = size_of(dtype);
  const auto state = [](const char* name, const std::vector<int32_t>& layers, int64_t series, int64_t width) {
    return CacheGroup{.name = name,
                      .layers = layers,
                      .bytes_per_entry = compressor_state_bytes(series, width),
                      .tokens_per_entry = kPageTokens,
                      .rewindable = false};
  };
  KvLayout layout;
  layout.groups = {
      {.name = "window", .layers = all, .bytes_per_entry = dim * bytes},
      {.name = "selected", .layers = selected, .bytes_per_entry = dim * bytes, .tokens_per_entry = kSelectedRatio},
      {.name = "block keys",
       .layers = selected,
       .bytes_per_entry = key_dim * bytes,
       .tokens_per_entry = kSelectedRatio},
      {.name = "global", .layers = global, .bytes_per_entry = dim * bytes, .tokens_per_entry = kPageTokens},
      state("selected state", selected, 2, dim),
      state("block key state", selected, 2, key_dim),
      state("global state", global, 1, dim)};
  return layout;
}

}  // namespace

Status check_cache_dtype(const ModelConfig& config, DType dtype) {
  if (dtype != DType::kI8) return {};
  if (config.block_global)
    return failed_precondition("cache.dtype: int8 expects attention full, found block_global, whose means are bf16");
  if (config.hybrid || config.grouped || config.index_topk > 0)
    return failed_precondition(
        "cache.dtype: int8 holds the latents of deepseek_v2 and deepseek_v3 (config.json: model_type), found {}; take"
        " bf16",
        config.model_type);
  return {};
}

KvLayout cache_layout(const ModelConfig& config, DType dtype) {
  if (config.hybrid) return hybrid_layout(config, dtype);
  std::vector<int32_t> layers(static_cast<size_t>(config.num_hidden_layers));
  std::iota(layers.begin(), layers.end(), 0);
  const int64_t width = config.grouped ? config.grouped->width() : config.latent_dim();  // of what means are taken of
  KvLayout layout;
  if (config.grouped) {
    for (const char* name : {"keys", "values"})
      layout.groups.push_back({.name = name, .layers = layers, .bytes_per_entry = width * size_of(dtype)});
  } else {
    const LatentCodes codes{config.kv_lora_rank, config.qk_rope_head_dim};
    layout.groups.push_back({.name = "latent",
                             .layers = layers,
                             .bytes_per_entry = dtype == DType::kI8 ? codes.entry_bytes() : width * size_of(dtype)});
  }
  if (config.index_topk > 0)
    layout.groups.push_back(
        {.name = "index", .layers = layers, .bytes_per_entry = config.index_head_dim * size_of(dtype)});
  if (config.block_global) {
    std::erase_if(layers, [&](int32_t layer) { return config.block_global->is_full(layer); });
    layout.groups.push_back({.name = "means",
                             .layers = layers,
                             .bytes_per_entry = width * size_of(dtype),
                             .tokens_per_entry = kPageTokens});
  }
  return layout;
}

}  // namespace sluice
