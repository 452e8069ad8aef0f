// The group of ranks that a process belongs to: meets the others at the address and holds what they meet by. Owns the
// store (on rank 0) and the communicator.
#pragma once

#include <memory>

#include "sluice/communicator.h"

#include "parallel/group_address.h"
#include "parallel/key_value_store.h"

namespace sluice {

class Group {
 public:
  // Rank 0 opens the store at once, so that the others need not wait for its model.
  static Result<std::unique_ptr<Group>> open(const GroupAddress& address);

  // Waits for all ranks; once. UNAVAILABLE names rank and reason.
  Status meet();

  Communicator& ranks() { return *ranks_; }  // after meet()

 private:
  explicit Group(const GroupAddress& address) : address_(address) {}

  const GroupAddress address_;
  std::unique_ptr<StoreServer> server_;  // rank 0
  std::unique_ptr<StoreClient> client_;
  std::unique_ptr<Communicator> ranks_;
};

}  // namespace sluice
