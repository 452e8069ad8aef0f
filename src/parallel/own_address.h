// Where a rank is reached. When nobody says so, usually the address of its way to rank 0 is the answer. It is not on a
// machine whose own name leads to the loopback, as Debian's installer writes it:
//
//   rank 0's machine, called fox   /etc/hosts: 127.0.1.1 fox     MASTER_ADDR=fox is the loopback: nobody else could
//   come another machine                DNS: fox is 10.0.0.7
//
// There rank 0 listens on all interfaces, and ranks whose way to it is the loopback are reached at the address from
// which they reach a rank that came over a network.
#pragma once

#include <string>

#include "parallel/group_address.h"
#include "parallel/key_value_store.h"

namespace sluice {

// Where rank 0 listens for the others: at `host`, or on all interfaces where that is a name (other than localhost's)
// which leads to the loopback and there are other machines.
std::string address_to_listen(const GroupAddress& address);

// own_host, or a numeric address. Every rank calls it, for each tells the others through the store; waits for them only
// where its own way to rank 0 is the loopback. UNAVAILABLE names the rank that did not come, or to which no interface
// leads.
Result<std::string> own_address(const GroupAddress& address, StoreClient& store);

}  // namespace sluice
