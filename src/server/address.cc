#include "server/address.h"

#include <charconv>

namespace sluice {

Result<HostPort> parse_host_port(const char* option, const std::string& address) {
  const size_t colon = address.rfind(':');
  const char* begin = address.c_str() + (colon == std::string::npos ? 0 : colon + 1);
  const char* end = address.c_str() + address.size();
  uint32_t port = 0;
  const auto [stop, error] = std::from_chars(begin, end, port);
  if (colon == std::string::npos || error != std::errc{} || stop != end || port > 65535)
    return invalid_argument("{}: expected HOST:PORT with a port in [0, 65535], found \"{}\"", option, address);
  return HostPort{address.substr(0, colon), static_cast<uint16_t>(port)};
}

}  // namespace sluice
