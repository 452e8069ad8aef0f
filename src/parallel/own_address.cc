#include "parallel/own_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace sluice {

namespace {

// The first address that a name or a number stands for; of no family if there is none.
sockaddr_storage first_address(const std::string& host, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  sockaddr_storage found{};
  if (getaddrinfo(host.c_str(), "9", &hints, &list) != 0) return found;
  std::memcpy(&found, list->ai_addr, list->ai_addrlen);
  freeaddrinfo(list);
  return found;
}

socklen_t size_of(const sockaddr_storage& address) {
  return address.ss_family == AF_INET6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in);
}

bool is_loopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET6) {
    const in6_addr& ip = reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&ip) || (IN6_IS_ADDR_V4MAPPED(&ip) && ip.s6_addr[12] == 127);
  }
  return address.ss_family == AF_INET &&
         ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == 127;
}

// This machine's address on the way to another. A datagram socket knows it without a word to anybody.
Result<std::string> address_towards(const std::string& other) {
  const sockaddr_storage to = first_address(other, 0);
  const int probe = socket(to.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_storage own{};
  socklen_t size = sizeof(own);
  const bool known = probe >= 0 && connect(probe, reinterpret_cast<const sockaddr*>(&to), size_of(to)) == 0 &&
                     getsockname(probe, reinterpret_cast<sockaddr*>(&own), &size) == 0;
  const int error = errno;
  if (probe >= 0) close(probe);
  if (!known) return unavailable("{}: {}", other, std::strerror(error));
  char text[NI_MAXHOST] = "";
  getnameinfo(reinterpret_cast<const sockaddr*>(&own), size, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return std::string(text);
}

}  // namespace

std::string address_to_listen(const GroupAddress& address) {
  const sockaddr_storage found = first_address(address.host, 0);
  const bool is_meant = address.one_machine || address.host.starts_with("localhost") ||
                        first_address(address.host, AI_NUMERICHOST).ss_family != AF_UNSPEC;
  if (is_meant || !is_loopback(found)) return address.host;
  return found.ss_family == AF_INET6 ? "::" : "0.0.0.0";
}

Result<std::string> own_address(const GroupAddress& address, StoreClient& store) {
  const std::string own = address.own_host.empty() ? store.own_address() : address.own_host;
  SLUICE_RETURN_IF_ERROR(store.set(fmt::format("address/{}", address.rank), own));
  if (!address.own_host.empty() || address.one_machine || !is_loopback(first_address(own, AI_NUMERICHOST))) return own;
  for (int rank = 0; rank < address.size; ++rank) {
    SLUICE_ASSIGN_OR_RETURN(const std::string other, store.get(fmt::format("address/{}", rank), address.start_timeout));
    if (is_loopback(first_address(other, 0))) continue;
    Result<std::string> found = address_towards(other);
    if (!found.ok()) return found.status().with_context(fmt::format("the way to rank {}", rank));
    return found;
  }
  return own;  // all are on this machine, whatever the launcher said
}

}  // namespace sluice
