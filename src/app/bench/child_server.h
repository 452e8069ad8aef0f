// A server of one's own for a measurement: this binary once more, as `sluice serve` on a free port of the loopback,
// ended with its owner. In a process of its own, so that the load generator's threads are not the server's.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "sluice/status.h"

namespace sluice {

class ChildServer {
 public:
  // Waits until it is ready. `flags` are those of `sluice serve`; its log goes to standard error.
  static Result<std::unique_ptr<ChildServer>> start(const std::vector<std::string>& flags);
  ~ChildServer();  // SIGTERM, and waits
  ChildServer(const ChildServer&) = delete;
  ChildServer& operator=(const ChildServer&) = delete;

  const std::string& address() const { return address_; }

 private:
  ChildServer(pid_t pid, std::string address) : pid_(pid), address_(std::move(address)) {}

  const pid_t pid_;
  const std::string address_;
};

}  // namespace sluice
