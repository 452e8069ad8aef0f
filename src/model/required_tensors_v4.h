// The names and shapes of a DeepSeek-V4 checkpoint, as DeepSeek writes them. See checkpoint.h.
#pragma once

#include <vector>

#include "model/checkpoint.h"

namespace sluice {

std::vector<TensorSpec> required_tensors_v4(const ModelConfig& config);

}  // namespace sluice
