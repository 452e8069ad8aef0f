// What this machine can do at most, measured here and now, so that every figure stands beside its bound.
#pragma once

namespace sluice {

// Sequential reading of a buffer far beyond the caches; best of several passes, once per team size, GB/s (10^9).
double read_bandwidth(int threads);

// Independent chains of fused multiply-adds in registers, in the widest vectors that the machine has; GFLOP/s.
double fma_rate(int threads);

// The same for int8 dot products (AVX-512 VNNI) and bf16 ones, two operations a product; 0 where the machine has none.
double vnni_rate(int threads);
double bf16_rate(int threads);

}  // namespace sluice
