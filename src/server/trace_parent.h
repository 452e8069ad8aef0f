// What a client says of the trace that its request belongs to (W3C Trace Context, the header `traceparent`). Values
// only; what is made of them is span_exporter.h's and the log's.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sluice {

struct TraceParent {
  std::array<uint8_t, 16> trace_id{};  // never all zero
  std::array<uint8_t, 8> span_id{};    // of the caller; never all zero
  bool sampled = false;                // the caller records its part
};

// Nothing for an empty text or one that is not as the recommendation wants it: then the request begins a trace of its
// own, and nobody is told, because whoever set the header wrongly is rarely who sent the request. Later versions than
// 00 are read as far as they are known (they may only append).
std::optional<TraceParent> parse_trace_parent(std::string_view text);

// Lower case, two digits a byte.
std::string trace_hex(const uint8_t* bytes, size_t num_bytes);

}  // namespace sluice
