// How a device wants weights to lie, as calls: what loading needs of a backend, and all that the CUDA engine shares with it.
#pragma once

#include "sluice/ops.h"

namespace sluice {

// What each call promises is said at the calls of the same names in Backend.
struct WeightPacking {
  const char* name = "";
  bool (*supports)(WeightFormat format) = nullptr;
  int64_t (*packed_bytes)(WeightFormat format, int64_t rows, int64_t cols) = nullptr;
  void (*pack)(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source,
               std::byte* packed) = nullptr;
};
inline WeightPacking packing_of(const Backend& backend) {
  return {backend.name, backend.supports, backend.packed_bytes, backend.pack};
}

}  // namespace sluice
