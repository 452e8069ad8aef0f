// What this machine can do at most (base/machine_bounds.h), measured once per team size when a bench first asks.
#pragma once

namespace sluice {

double read_bandwidth(int threads);  // GB/s (10^9)
double fma_rate(int threads);        // GFLOP/s in f32
double int8_rate(int threads);       // Gop/s of byte products
double bf16_rate(int threads);       // GFLOP/s of bf16 products; 0 where the machine has none

}  // namespace sluice
