#include "server/trace_parent.h"

#include <fmt/format.h>

#include <algorithm>

namespace sluice {

namespace {

// Capital letters are not allowed.
std::optional<uint8_t> digit_of(char c) {
  if (c >= '0' && c <= '9') return static_cast<uint8_t>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<uint8_t>(c - 'a' + 10);
  return std::nullopt;
}

bool read_hex(std::string_view text, uint8_t* out) {
  for (size_t i = 0; i < text.size(); i += 2) {
    const auto high = digit_of(text[i]), low = digit_of(text[i + 1]);
    if (!high || !low) return false;
    out[i / 2] = static_cast<uint8_t>(*high << 4 | *low);
  }
  return true;
}

template <size_t N>
bool all_zero(const std::array<uint8_t, N>& bytes) {
  return std::ranges::all_of(bytes, [](uint8_t byte) { return byte == 0; });
}

}  // namespace

//   00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
//   0  3                                36               53   55
std::optional<TraceParent> parse_trace_parent(std::string_view text) {
  constexpr size_t kSize = 55;
  if (text.size() < kSize || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  uint8_t version = 0, flags = 0;
  if (!read_hex(text.substr(0, 2), &version) || version == 0xff) return std::nullopt;
  if (version == 0 ? text.size() != kSize : text.size() > kSize && text[kSize] != '-') return std::nullopt;
  TraceParent out;
  if (!read_hex(text.substr(3, 32), out.trace_id.data()) || !read_hex(text.substr(36, 16), out.span_id.data()) ||
      !read_hex(text.substr(53, 2), &flags))
    return std::nullopt;
  if (all_zero(out.trace_id) || all_zero(out.span_id)) return std::nullopt;
  out.sampled = (flags & 1) != 0;
  return out;
}

std::string trace_hex(const uint8_t* bytes, size_t num_bytes) {
  return fmt::format("{:02x}", fmt::join(bytes, bytes + num_bytes, ""));
}

}  // namespace sluice
