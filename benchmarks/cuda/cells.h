// What cuda_bench measures, a file for each.
#pragma once

#include "benchmarks/cuda/timer.h"

namespace sluice {

void bench_products(CudaBench& bench);
void bench_attention(CudaBench& bench);  // and routing
// Decode steps of the `mini` shape, with graphs and without.
void bench_engine(CudaBench& bench, const std::string& config_directory);

}  // namespace sluice
