// The one place that knows which backends this build holds and which of them this machine can run.
#pragma once

#include <string_view>
#include <vector>

#include "sluice/ops.h"
#include "sluice/status.h"

namespace sluice {

// "auto" or "cpu" (the fastest that runs here), "cpu-avx512vnni", "cpu-avx512", "cpu-avx2" or "ref". INVALID_ARGUMENT
// for an unknown name, FAILED_PRECONDITION naming the missing instructions for one that this machine cannot run.
Result<const Backend*> find_backend(std::string_view name);

// All that can run here, the oracle first; what tests iterate over.
std::vector<const Backend*> runnable_backends();

}  // namespace sluice
