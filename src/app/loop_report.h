// Says in the front door's words what the loop counted: snapshot to report. Pure functions, any thread.
#pragma once

#include "app/serve_loop.h"
#include "server/services.h"

namespace sluice {

LoopReport report_of(const LoopSnapshot& snapshot, const LoadedModel& loaded, const Options& options);
ExpertReport report_of(const ExpertLoad& load);

}  // namespace sluice
