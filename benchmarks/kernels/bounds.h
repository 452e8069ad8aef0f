// What this machine can do at most, measured here and now, so that every figure stands beside its bound.
#pragma once

namespace sluice {

// Sequential reading of a buffer far beyond the caches; best of several passes, once per team size, GB/s (10^9).
double read_bandwidth(int threads);

// Independent chains of fused multiply-adds in registers, in the widest vectors that the machine has; GFLOP/s.
double fma_rate(int threads);

}  // namespace sluice
