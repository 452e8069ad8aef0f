// What a config.json's numbers may be, whichever architecture reads them.
#pragma once

#include "model/json_fields.h"

namespace sluice {

// Ends of ranges: far above any model in sight, and low enough that heads * head_dim fits 32 bits and that the bytes of
// the largest model, 2^10 layers * 2^12 experts * 3 matrices * 2^36 weights * 4 bytes, fit 63.
constexpr int64_t kVocabEnd = int64_t{1} << 24;
constexpr int64_t kWidthEnd = int64_t{1} << 18;  // hidden_size, intermediate_size, ranks
constexpr int64_t kHeadsEnd = int64_t{1} << 12;
constexpr int64_t kHeadDimEnd = int64_t{1} << 13;
constexpr int64_t kLayersEnd = int64_t{1} << 10;
constexpr int64_t kExpertsEnd = int64_t{1} << 12;
constexpr int64_t kSharedExpertsEnd = int64_t{1} << 8;
constexpr int64_t kPositionsEnd = int64_t{1} << 28;
constexpr int64_t kIndexDimEnd = (int64_t{1} << 10) + 1;  // what the kernels hold of a key

constexpr NumberRange kEpsilon{0, false, 1, false, "a number in (0, 1)"};
constexpr NumberRange kRopeBase{1, false, kLargestNumber, true, "a number > 1"};

}  // namespace sluice
