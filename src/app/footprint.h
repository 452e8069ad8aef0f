// What serving a model on the CPU takes of the machine's memory: asked of the code that allocates it, before anything is
// allocated (`sluice inspect`), and again by the server once it has loaded.
#pragma once

#include <cstdint>

#include "config/options.h"
#include "model/deepseek.h"
#include "model/inspect.h"

namespace sluice {

// Of a model that is loaded, or measured. `threads` compute.
MemoryReport footprint_of(const DeepSeekModel& model, int32_t num_pages, int threads);

// Of a model that is not: what `options` would load from `checkpoint`, with a cache of cache.memory_mib or, where that is
// left to the server, of one context. Fails as loading would for what the device does not support.
Result<MemoryReport> predict_footprint(const Options& options, const ModelConfig& config, const Checkpoint& checkpoint);
// Of each of options.tp ranks (several), all on one machine.
Result<std::vector<MemoryReport>> predict_footprints(const Options& options, const ModelConfig& config,
                                                     const Checkpoint& checkpoint);

}  // namespace sluice
