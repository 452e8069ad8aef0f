// `sluice bench`: the measurements, one subcommand each. Every one adds its flags and returns what to run.
#pragma once

#include "app/commands.h"

namespace sluice {

Action add_bench_engine(CLI::App& app);
Action add_bench_batching(CLI::App& app);
Action add_bench_cache(CLI::App& app);
Action add_bench_context(CLI::App& app);
#ifdef SLUICE_SERVER
Action add_bench_serve(CLI::App& app);
#endif

}  // namespace sluice
