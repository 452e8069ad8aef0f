// How the inputs of a matrix go together on sample text, as the factor that quantize_row_compensated() takes. Plain
// linear algebra; owns nothing. Called by `sluice quantize`, from one thread.
#pragma once

#include <cstdint>
#include <vector>

namespace sluice {

// gram: [cols, cols], X^T X (only j >= i is read; destroyed). Returns U [cols, cols], upper triangular, with U^T U the
// inverse of X^T X + damping; empty when X is all zeros (no token ever came here).
std::vector<float> compensation_factor(std::vector<double> gram, int64_t cols);

}  // namespace sluice
