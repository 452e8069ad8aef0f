#include "model/row_spans.h"

namespace sluice {

void SpanSplit::assign(std::span<const SequenceSpan> spans, int32_t position) {
  below.clear();
  above.clear();
  for (const SequenceSpan& span : spans) {
    const int32_t cut = std::clamp(position, span.position_begin, span.position_end);
    if (span.position_begin < cut) below.push_back({span.row_begin, span.position_begin, cut, span.pages});
    if (cut < span.position_end)
      above.push_back({span.row_begin + cut - span.position_begin, cut, span.position_end, span.pages});
  }
}

void HeadRows::assign(std::span<const SequenceSpan> spans, int32_t heads) {
  offsets.assign(1, 0);
  row_ids.clear();
  for (int32_t head = 0; head < heads; ++head) {
    for (const SequenceSpan& span : spans)
      for (int32_t i = 0; i < span.position_end - span.position_begin; ++i)
        row_ids.push_back((span.row_begin + i) * heads + head);
    offsets.push_back(static_cast<int32_t>(row_ids.size()));
  }
}

}  // namespace sluice
