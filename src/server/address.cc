#include "server/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>

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

Status check_distinct(const char* option, const std::string& address, const char* other,
                      const std::string& other_address) {
  SLUICE_ASSIGN_OR_RETURN(const HostPort a, parse_host_port(option, address));
  SLUICE_ASSIGN_OR_RETURN(const HostPort b, parse_host_port(other, other_address));
  const auto is_any = [](const std::string& host) { return host.empty() || host == "0.0.0.0" || host == "[::]"; };
  const auto named = [](const std::string& host) { return host == "localhost" ? std::string("127.0.0.1") : host; };
  const bool meet = is_any(a.host) || is_any(b.host) || named(a.host) == named(b.host);
  if (a.port == 0 || a.port != b.port || !meet) return {};
  return invalid_argument("{}: \"{}\" has the port of {} (\"{}\"); take another", option, address, other,
                          other_address);
}

Status check_listenable(const char* option, const std::string& address) {
  SLUICE_ASSIGN_OR_RETURN(const HostPort wanted, parse_host_port(option, address));
  std::string host = wanted.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  if (const int error =
          getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(wanted.port).c_str(), &hints, &found))
    return unavailable("{}: cannot listen on \"{}\": {}", option, address, gai_strerror(error));
  // A name may stand for addresses of which this machine has some only (localhost: ::1 without IPv6).
  int error = 0;
  for (const addrinfo* each = found; each; each = each->ai_next) {
    const int socket = ::socket(each->ai_family, SOCK_STREAM, 0);
    const int yes = 1;
    setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));  // connections of a server that has just ended
    const bool bound = socket >= 0 && bind(socket, each->ai_addr, each->ai_addrlen) == 0 && listen(socket, 1) == 0;
    if (error == 0) error = errno;  // of the first one, which is the one that is meant
    if (socket >= 0) close(socket);
    if (!bound) continue;
    freeaddrinfo(found);
    return {};
  }
  freeaddrinfo(found);
  const char* advice = error == EADDRINUSE      ? "; `ss -ltnp` names who has it"
                       : error == EACCES        ? "; ports below 1024 are for root or CAP_NET_BIND_SERVICE"
                       : error == EADDRNOTAVAIL ? "; expected an address of this machine, 0.0.0.0 or 127.0.0.1"
                                                : "";
  return unavailable("{}: cannot listen on \"{}\": {}{}", option, address, std::strerror(error), advice);
}

}  // namespace sluice
