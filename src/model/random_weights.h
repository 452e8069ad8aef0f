// Weights without a file: a tensor's values as a pure function of (seed, tensor name, element index), so that any part
// of a model can be made anywhere, in any order, and is always the same. Owns nothing. Called by Checkpoint from many
// loading threads at once.
#pragma once

#include <cstdint>
#include <string_view>

namespace sluice {

constexpr float kRandomWeightSigma = 0.02f;

// Elements [begin, begin + count) of the tensor: about N(0, 0.02), norm weights ("...norm.weight") 1 + that. The same
// bits on every machine and in every build; tests pin some of them.
void random_values(uint64_t seed, std::string_view tensor, int64_t begin, int64_t count, float* out);

// `count` different numbers of [0, end), count <= end: row `row` of a table of expert ids.
void random_choice(uint64_t seed, std::string_view tensor, int64_t row, int32_t end, int32_t count, int32_t* out);

}  // namespace sluice
