// What a router makes of its logits; the formulas stand at RouteArgs.
#pragma once

#include <cstdint>

namespace sluice {

enum class ScoringFunc : uint8_t { kSoftmax, kSigmoid, kSqrtSoftplus };

}  // namespace sluice
