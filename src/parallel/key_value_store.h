// A small key-value store over TCP, by which the ranks of a group find each other: rank 0 serves it, everybody (rank 0
// too) is a client. Gloo keeps its ranks' addresses in it, NCCL its id. It lives from a group's start to its end, holds
// a few hundred bytes a rank, and knows nothing of either.
//
//   request    op (1 byte: S or G) | key length (u32) | value length (u32) | key | value      little-endian
//   answer     value length (u32) | value       to G, once somebody has set the key; to S: length 0
//
// Whoever reaches the port may read and write: it belongs on the loopback or on the network between the machines of one
// group. Lengths beyond the limits below end the connection.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "sluice/clock.h"
#include "sluice/status.h"

namespace sluice {

constexpr size_t kMaxKeyBytes = 1 << 10;
constexpr size_t kMaxValueBytes = 1 << 20;

// A socket that listens at host:port; port 0 picks a free one. UNAVAILABLE names the address.
Result<int> listen_at(const std::string& host, int port);
// The port of a listening socket.
int port_of(int listener);

class StoreServer {
 public:
  // Takes the listening socket over. One thread serves all clients.
  explicit StoreServer(int listener);
  ~StoreServer();
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

 private:
  void serve();

  const int listener_;
  int wake_[2] = {-1, -1};  // a pipe: its end ends serve()
  std::thread thread_;
};

class StoreClient {
 public:
  // Tries until `timeout` has passed: rank 0 may come later. UNAVAILABLE names the address.
  static Result<std::unique_ptr<StoreClient>> connect(const std::string& host, int port, Duration timeout);
  ~StoreClient();
  StoreClient(const StoreClient&) = delete;
  StoreClient& operator=(const StoreClient&) = delete;

  Status set(std::string_view key, std::string_view value);
  // Waits until the key is there; DEADLINE_EXCEEDED names the key. Afterwards the connection is of no more use.
  Result<std::string> get(std::string_view key, Duration timeout);

  // This machine's address on the way to the store, as text: where others on that network reach it.
  std::string own_address() const;

 private:
  explicit StoreClient(int socket) : socket_(socket) {}
  Status send_request(char op, std::string_view key, std::string_view value);
  Status receive(char* bytes, size_t count, TimePoint deadline, std::string_view key);

  const int socket_;
};

}  // namespace sluice
