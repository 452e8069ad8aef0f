// What a model keeps of every position, as groups of the paged cache (include/sluice/kv_layout.h), from its config
// alone. Called by the model, which fills the entries, and by `inspect`.
#pragma once

#include "sluice/kv_layout.h"
#include "sluice/status.h"
#include "sluice/tensor.h"

#include "model/config.h"

namespace sluice {

// Places in KvLayout::groups. Of V2, V3 and V3.2:
constexpr size_t kLatentGroup = 0;  // every layer: latent_dim() values a position
constexpr size_t kIndexGroup = 1;   // V3.2 only, every layer: index_head_dim values a position
constexpr size_t kMeansGroup = 1;   // with block attention, its layers: latent_dim() values a page

// Of Qwen3-MoE; entries hold the kv_heads vectors of a position side by side.
constexpr size_t kKeysGroup = 0;      // every layer: a position's keys
constexpr size_t kValuesGroup = 1;    // every layer: its values
constexpr size_t kKeyMeansGroup = 2;  // with block attention, its layers: the mean of a page's keys

// Of V4. All that a page's positions leave behind lies in their page, what the next position needs of a block that is
// not complete included, so a full page can be reused, moved and read again like any other; only a page that is not
// full cannot be cut back. Vectors stay in their page when the window has passed them: the price is head_dim values a
// position and layer.
constexpr size_t kWindowGroup = 0;    // every layer: the position's vector, head_dim values
constexpr size_t kSelectedGroup = 1;  // ratio 4: an entry of head_dim values for 4 positions
constexpr size_t kBlockKeyGroup = 2;  // ratio 4: the indexer's key, index_head_dim values for 4 positions
constexpr size_t kGlobalGroup = 3;    // ratio 128: an entry, in the second page of its block (the first has a hole)
constexpr size_t kSelectedStateGroup = 4;  // the compressors' states (CompressArgs), F32 whatever the cache's type
constexpr size_t kBlockKeyStateGroup = 5;
constexpr size_t kGlobalStateGroup = 6;

// Whether the model's entries have the form of `dtype`: int8 (DType::kI8, sluice/latent_codes.h) is that of latents alone.
Status check_cache_dtype(const ModelConfig& config, DType dtype);

// Of a dtype that check_cache_dtype accepts.
KvLayout cache_layout(const ModelConfig& config, DType dtype);

}  // namespace sluice
