// What a model keeps of every position, as groups of the paged cache (include/sluice/kv_layout.h), from its config
// alone. Called by the model, which fills the entries, and by `inspect`.
#pragma once

#include "sluice/kv_layout.h"
#include "sluice/tensor.h"

#include "model/config.h"

namespace sluice {

// Places in KvLayout::groups.
constexpr size_t kLatentGroup = 0;  // every layer: latent_dim() values a position
constexpr size_t kIndexGroup = 1;   // V3.2 only, every layer: index_head_dim values a position

constexpr size_t kMeansGroup = 1;   // with block attention, its layers: latent_dim() values a page

KvLayout cache_layout(const ModelConfig& config, DType dtype);

}  // namespace sluice
