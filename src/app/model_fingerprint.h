// Names the bits that a model computes, so that cached pages on disk are never taken for another model's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "sluice/kv_layout.h"
#include "sluice/status.h"

namespace sluice {

// Hash of config.json and of every safetensors file (name, size, and pieces spread over it: a whole read of a large
// model would take minutes), of the weight format in memory, and of the seed of random weights.
Result<uint64_t> model_fingerprint(const std::string& directory, const std::string& weights,
                                   std::optional<uint64_t> random_seed);

uint64_t layout_fingerprint(const KvLayout& layout, const std::string& cache_dtype);

}  // namespace sluice
