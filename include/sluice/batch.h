// One step's input to the model, as rows: the engine builds it from a StepPlan. Spans point into the engine's vectors.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "sluice/ops.h"
#include "sluice/types.h"

namespace sluice {

// Sees what a forward pass decided; for tests, expert-load metrics and traces. Costs one branch when absent.
struct ForwardObserver {
  // experts and weights: [rows, top_k] of this layer.
  std::function<void(int32_t layer, int64_t rows, int32_t top_k, const int32_t* experts, const float* weights)> routed;
  // positions: [rows of the spans, top_k], what this layer's attention of these rows looks at (V3.2 beyond top_k), or
  // with block attention pages.
  std::function<void(int32_t layer, std::span<const SequenceSpan> spans, int32_t top_k, const int32_t* positions)>
      selected;
};

// All pages of the cache: page p is bytes [p * bytes_per_page, (p + 1) * bytes_per_page) from base (see kv_layout.h).
struct KvPages {
  std::byte* base = nullptr;
  int64_t bytes_per_page = 0;
  DType dtype = DType::kF32;
  const KvLayout* layout = nullptr;  // of a page
};

// Rows are the tokens of all spans; a row belongs to exactly one span.
struct StepBatch {
  std::span<const TokenId> tokens;               // [rows]
  std::span<const int32_t> positions;            // [rows] absolute
  std::span<const SequenceSpan> prompt_spans;    // rows whose role is prompt
  std::span<const SequenceSpan> generated_spans; // rows whose role is generated
  std::span<const int32_t> output_rows;          // rows whose hidden state is wanted, ascending
  KvPages kv;
  const ForwardObserver* observer = nullptr;
};

}  // namespace sluice
