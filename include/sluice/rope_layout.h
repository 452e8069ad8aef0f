// Which two elements of a head a rotation takes. Apart from ops.h, because CUDA kernels take it too and nvcc cannot read
// fmt 9, which ops.h brings.
#pragma once

#include <cstdint>

namespace sluice {

// kPair (2i, 2i+1), kHalf (i, i + dim/2) (DESIGN.md, models).
enum class RopeLayout : uint8_t { kPair, kHalf };

}  // namespace sluice
