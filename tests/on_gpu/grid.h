// What <grid.h> is where kernel tests run on a GPU: the emulator's knobs, of which there are none. Launches are
// synchronous there (managed_memory.cc), so that results can be read as soon as a launcher returns.
#pragma once

#include <cstdint>

namespace sluice::grid {

struct Options {
  uint64_t seed = 1;
  int resident_blocks = 4;
};
inline void configure(const Options&) {}

struct LaunchStats {
  int64_t bank_conflicts = 0;  // not seen from here
};
inline LaunchStats last_launch() { return {}; }

}  // namespace sluice::grid
