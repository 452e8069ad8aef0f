// Rows of a step as attention's forms take them: cut at a position, ordered by heads, in blocks.
#pragma once

#include <algorithm>
#include <vector>

#include "sluice/batch.h"

namespace sluice {

// Cuts every span at `position`: rows before it, and rows from it on.
struct SpanSplit {
  std::vector<SequenceSpan> below, above;

  void assign(std::span<const SequenceSpan> spans, int32_t position);
};

// Rows of the spans as the products per head want them, each head an expert: head h has rows [offsets[h],
// offsets[h + 1]), all of one count, and row i of it is row_ids[offsets[h] + i] = (row of the batch) * heads + h.
struct HeadRows {
  std::vector<int32_t> offsets;  // [heads + 1]
  std::vector<int32_t> row_ids;  // [heads, rows of the spans]

  void assign(std::span<const SequenceSpan> spans, int32_t heads);
};

// Calls action() with `block` holding the next max_rows rows of the spans, in their order; the last time what is left.
template <typename Action>
void for_each_block(std::span<const SequenceSpan> spans, int32_t max_rows, std::vector<SequenceSpan>& block,
                    const Action& action) {
  int32_t rows = 0;
  block.clear();
  for (const SequenceSpan& span : spans) {
    for (int32_t begin = span.position_begin; begin < span.position_end;) {
      const int32_t end = std::min(span.position_end, begin + max_rows - rows);
      block.push_back({span.row_begin + begin - span.position_begin, begin, end, span.pages});
      rows += end - begin;
      begin = end;
      if (rows < max_rows) continue;
      action();
      block.clear();
      rows = 0;
    }
  }
  if (rows > 0) action();
}

}  // namespace sluice
