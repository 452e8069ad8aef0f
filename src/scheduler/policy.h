// Who comes first, how much of a prompt goes into a step, who must give way: pure functions of what they are given.
// Owns nothing. Called by the scheduler.
#pragma once

#include <cstdint>
#include <span>

#include "sluice/clock.h"
#include "sluice/types.h"

#include "scheduler/sequence.h"

namespace sluice {

// Smallest first, both for admission and for keeping one's pages. Priority, then arrival, with ageing: each level of
// priority is worth `ageing` of waiting. Written as priority * ageing + arrival the order of two requests never
// changes with time, and still nothing starves: a request that waited long enough is before every newcomer.
int64_t order_key(int32_t priority, TimePoint arrival, Duration ageing);

// End of the next run of rows, begin when nothing fits: at most `budget` rows of [begin, role_end). A chunk of a prompt
// ends at a page border or with the prompt, so that its rows have the same bits however it is cut.
int32_t chunk_end(TokenRole role, int32_t begin, int32_t role_end, int32_t budget);

// Who gives up its pages when some are needed: the last one in order (which may be the one in need), but never the
// oldest running one, so that one sequence always gets to its end. Null when the oldest is alone. `running` is in
// order, the best first.
Sequence* choose_victim(std::span<Sequence* const> running, const Sequence& oldest);

}  // namespace sluice
