#include "parallel/key_value_store.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <list>
#include <map>

#include "sluice/check.h"

namespace sluice {

namespace {

constexpr size_t kHeaderBytes = 1 + 2 * sizeof(uint32_t);

struct AddressList {
  addrinfo* first = nullptr;
  ~AddressList() {
    if (first) freeaddrinfo(first);
  }
};

Status resolve(const std::string& host, int port, AddressList& list) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &list.first);
  if (code == 0) return {};
  return unavailable("{}:{}: {}", host, port, gai_strerror(code));
}

uint32_t read_u32(const char* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

void append_u32(std::string& bytes, size_t value) {
  const auto small = static_cast<uint32_t>(value);
  bytes.append(reinterpret_cast<const char*>(&small), sizeof(small));
}

// Small answers, and the client waits for them: a full socket buffer means a client that reads nothing, which is
// dropped. MSG_NOSIGNAL: a client that has gone is an error value, not a SIGPIPE.
bool send_all(int socket, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// One client of the server: the bytes that came, and the key it waits for.
struct Connection {
  int socket = -1;
  std::string received;
  std::string awaited;  // empty: none
};

std::string answer_with(const std::string& value) {
  std::string bytes;
  append_u32(bytes, value.size());
  return bytes + value;
}

using Values = std::map<std::string, std::string, std::less<>>;

// Takes all whole requests; false if the client is to be dropped.
bool take_requests(Connection& client, Values& values) {
  while (client.received.size() >= kHeaderBytes) {
    const char op = client.received[0];
    const size_t key_bytes = read_u32(client.received.data() + 1);
    const size_t value_bytes = read_u32(client.received.data() + 1 + sizeof(uint32_t));
    if ((op != 'S' && op != 'G') || key_bytes == 0 || key_bytes > kMaxKeyBytes || value_bytes > kMaxValueBytes)
      return false;
    if (client.received.size() < kHeaderBytes + key_bytes + value_bytes) return true;
    const std::string key = client.received.substr(kHeaderBytes, key_bytes);
    if (op == 'S') {
      values[key] = client.received.substr(kHeaderBytes + key_bytes, value_bytes);
      if (!send_all(client.socket, answer_with(""))) return false;
    } else {
      client.awaited = key;
    }
    client.received.erase(0, kHeaderBytes + key_bytes + value_bytes);
  }
  return true;
}

// Answers the waiting if the key is there by now.
bool answer_waiting(Connection& client, const Values& values) {
  if (client.awaited.empty()) return true;
  const auto found = values.find(client.awaited);
  if (found == values.end()) return true;
  client.awaited.clear();
  return send_all(client.socket, answer_with(found->second));
}

bool read_more(Connection& client) {
  char bytes[4096];
  const ssize_t count = recv(client.socket, bytes, sizeof(bytes), MSG_DONTWAIT);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  client.received.append(bytes, static_cast<size_t>(count));
  return count > 0;
}

// Non-blocking, so that its deadline is ours and not the system's minutes.
bool connect_within(int socket, const addrinfo& to, TimePoint deadline) {
  fcntl(socket, F_SETFL, O_NONBLOCK);
  if (connect(socket, to.ai_addr, to.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return false;
    pollfd entry{socket, POLLOUT, 0};
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (poll(&entry, 1, static_cast<int>(std::clamp<int64_t>(left.count(), 1, 5000))) != 1) return false;
    int error = 0;
    socklen_t size = sizeof(error);
    getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      errno = error;
      return false;
    }
  }
  fcntl(socket, F_SETFL, 0);
  return true;
}

}  // namespace

Result<int> listen_at(const std::string& host, int port) {
  AddressList list;
  SLUICE_RETURN_IF_ERROR(resolve(host, port, list));
  const int listener = socket(list.first->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  if (listener >= 0) setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (listener < 0 || bind(listener, list.first->ai_addr, list.first->ai_addrlen) != 0 ||
      listen(listener, SOMAXCONN) != 0) {
    const Status status = unavailable("{}:{}: cannot listen: {}", host, port, std::strerror(errno));
    if (listener >= 0) close(listener);
    return status;
  }
  return listener;
}

int port_of(int listener) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  SLUICE_CHECK(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0, "socket {}", listener);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

StoreServer::StoreServer(int listener) : listener_(listener) {
  SLUICE_CHECK(pipe2(wake_, O_CLOEXEC) == 0, "errno {}", errno);
  thread_ = std::thread([this] { serve(); });
}

StoreServer::~StoreServer() {
  close(wake_[1]);
  thread_.join();
  close(wake_[0]);
  close(listener_);
}

void StoreServer::serve() {
  Values values;
  std::list<Connection> clients;
  while (true) {
    std::vector<pollfd> entries = {{wake_[0], POLLIN, 0}, {listener_, POLLIN, 0}};
    for (const Connection& client : clients) entries.push_back({client.socket, POLLIN, 0});
    if (poll(entries.data(), entries.size(), -1) < 0) continue;
    if (entries[0].revents != 0) break;
    size_t index = 2;
    for (auto client = clients.begin(); client != clients.end(); ++index) {
      const bool stays = entries[index].revents == 0 || (read_more(*client) && take_requests(*client, values));
      if (!stays) close(client->socket);
      client = stays ? std::next(client) : clients.erase(client);
    }
    for (auto client = clients.begin(); client != clients.end();) {
      const bool stays = answer_waiting(*client, values);
      if (!stays) close(client->socket);
      client = stays ? std::next(client) : clients.erase(client);
    }
    if (entries[1].revents == 0) continue;
    const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const timeval patience{.tv_sec = 5, .tv_usec = 0};
    if (socket < 0) continue;
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    clients.push_back({.socket = socket, .received = {}, .awaited = {}});
  }
  for (const Connection& client : clients) close(client.socket);
}

Result<std::unique_ptr<StoreClient>> StoreClient::connect(const std::string& host, int port, Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  Status last;
  do {
    AddressList list;
    last = resolve(host, port, list);
    for (const addrinfo* to = list.first; last.ok() && to != nullptr; to = to->ai_next) {
      const int one = socket(to->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const int on = 1;
      if (one >= 0 && connect_within(one, *to, deadline)) {
        setsockopt(one, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        return std::unique_ptr<StoreClient>(new StoreClient(one));
      }
      const int error = errno;
      if (one >= 0) close(one);
      if (to->ai_next == nullptr) last = unavailable("{}:{}: {}", host, port, std::strerror(error));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  } while (std::chrono::steady_clock::now() < deadline);
  return last.with_context(fmt::format("no connection to rank 0 within {:.1f} s", seconds(timeout)));
}

StoreClient::~StoreClient() { close(socket_); }

std::string StoreClient::own_address() const {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  char text[NI_MAXHOST] = "";
  if (getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0)
    getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, text, sizeof(text), nullptr, 0, NI_NUMERICHOST);
  return text;
}

Status StoreClient::send_request(char op, std::string_view key, std::string_view value) {
  SLUICE_CHECK(!key.empty() && key.size() <= kMaxKeyBytes && value.size() <= kMaxValueBytes, "key of {}, value of {}",
               key.size(), value.size());
  std::string bytes(1, op);
  append_u32(bytes, key.size());
  append_u32(bytes, value.size());
  bytes.append(key).append(value);
  if (send_all(socket_, bytes)) return {};
  return unavailable("key \"{}\": rank 0 has gone: {}", key, std::strerror(errno));
}

Status StoreClient::receive(char* bytes, size_t count, TimePoint deadline, std::string_view key) {
  while (count > 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0)
      return {StatusCode::kDeadlineExceeded, fmt::format("key \"{}\": nobody has set it in time", key)};
    pollfd entry{socket_, POLLIN, 0};
    if (poll(&entry, 1, static_cast<int>(std::min<int64_t>(left.count(), 60'000))) <= 0) continue;
    const ssize_t got = recv(socket_, bytes, count, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return unavailable("key \"{}\": rank 0 has gone", key);
    bytes += got;
    count -= static_cast<size_t>(got);
  }
  return {};
}

Status StoreClient::set(std::string_view key, std::string_view value) {
  SLUICE_RETURN_IF_ERROR(send_request('S', key, value));
  char length[sizeof(uint32_t)];
  return receive(length, sizeof(length), std::chrono::steady_clock::now() + std::chrono::seconds(10), key);
}

Result<std::string> StoreClient::get(std::string_view key, Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  SLUICE_RETURN_IF_ERROR(send_request('G', key, ""));
  char length[sizeof(uint32_t)];
  SLUICE_RETURN_IF_ERROR(receive(length, sizeof(length), deadline, key));
  if (read_u32(length) > kMaxValueBytes)
    return unavailable("key \"{}\": rank 0 answered with {} bytes, more than {}", key, read_u32(length),
                       kMaxValueBytes);
  std::string value(read_u32(length), '\0');
  SLUICE_RETURN_IF_ERROR(receive(value.data(), value.size(), deadline, key));
  return value;
}

}  // namespace sluice
