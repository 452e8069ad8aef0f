// HOST:PORT as options name it. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>

#include "sluice/status.h"

namespace sluice {

struct HostPort {
  std::string host;  // as written, brackets of IPv6 included
  uint16_t port = 0;
};

// INVALID_ARGUMENT begins with the option's name. (Libraries take a port modulo 65536, and would serve where nobody
// asks.)
Result<HostPort> parse_host_port(const char* option, const std::string& address);

// Whether a server could listen there now: UNAVAILABLE says why not and what to do. Somebody else may still come first.
Status check_listenable(const char* option, const std::string& address);

// INVALID_ARGUMENT if both could not be listened on at once.
Status check_distinct(const char* option, const std::string& address, const char* other,
                      const std::string& other_address);

}  // namespace sluice
