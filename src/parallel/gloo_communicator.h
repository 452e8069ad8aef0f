// Ranks on CPUs: Gloo's collectives over TCP. Owns the group's connections. Refuses Gloo's own all-reduce: its order of
// additions turns with the place of an element, so that a row's bits would depend on the batch around it. Instead each
// rank receives one part of everybody's values, adds it in the order of ranks, and hands the sum round: the same bytes
// over the wire as a ring, in two operations. Below kSmallBytes everybody gathers everything and adds for itself: one
// operation, where latency is all there is.
#pragma once

#include <memory>

#include "sluice/communicator.h"

#include "parallel/group_address.h"
#include "parallel/key_value_store.h"

namespace sluice {

constexpr size_t kSmallBytes = 32 << 10;

// Waits for all ranks. UNAVAILABLE says which rank waited for what; FAILED_PRECONDITION in a build without Gloo.
Result<std::unique_ptr<Communicator>> connect_gloo(const GroupAddress& address, StoreClient& store);

}  // namespace sluice
