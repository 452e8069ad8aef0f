#include "app/bench/bench.h"

#include <utility>

namespace sluice {

Action add_bench(CLI::App& app) {
  struct Bench {
    const char* name;
    const char* help;
    Action (*add)(CLI::App&);
  };
  constexpr Bench kBenches[] = {
      {"engine", "prefill and decode of the engine alone, beside the machine's bounds", add_bench_engine},
      {"batching", "continuous against static batching, same engine", add_bench_batching},
      {"cache", "questions about a few documents: what the activation cache saves, and costs", add_bench_cache},
      {"context", "a token behind a long context in full and block attention: time, memory and quality", add_bench_context},
#ifdef SLUICE_SERVER
      {"serve", "load a server over gRPC: latencies, throughput, goodput", add_bench_serve},
#endif
  };
  app.require_subcommand(1);
  std::vector<std::pair<CLI::App*, Action>> actions;
  for (const Bench& bench : kBenches) {
    CLI::App* child = app.add_subcommand(bench.name, bench.help);
    actions.emplace_back(child, bench.add(*child));
  }
  return [actions = std::move(actions)]() -> Status {
    for (const auto& [child, action] : actions)
      if (child->parsed()) return action().with_context(child->get_name());
    return {};
  };
}

}  // namespace sluice
