// How CUDA devices are named in options: "cuda", the first one, or "cuda:1".
#pragma once

#include <string_view>

#include "sluice/status.h"

namespace sluice {

bool is_cuda_device(std::string_view device);

// INVALID_ARGUMENT for anything behind the colon that is no number.
Result<int> cuda_device_index(std::string_view device);

}  // namespace sluice
