#include "config/launch.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

namespace sluice {

namespace {

// What a launcher calls what it says.
struct Names {
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_size;  // or null
};

// The order of trust: what is set for each process comes before what is set for a whole job. torchrun's names are also
// those of `sluice` itself.
constexpr Names kLaunchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"},
    {"a LeaderWorkerSet", "LWS_WORKER_INDEX", "LWS_GROUP_SIZE", nullptr},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"},
};
constexpr const char* kListener = "SLUICE_RANK_LISTENER";

Result<int> number(const char* name, const char* text, int low, int high) {
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc{} || stop != end || value < low || value > high)
    return invalid_argument("environment: {}: expected a number in [{}, {}], found \"{}\"", name, low, high, text);
  return value;
}

Status read_master(const Environment& environment, Launch& launch) {
  if (const char* host = environment("MASTER_ADDR")) {
    launch.host = host;
  } else if (const char* leader = environment("LWS_LEADER_ADDRESS")) {
    launch.host = leader;
  } else if (const char* nodes = environment("SLURM_STEP_NODELIST")) {
    launch.host = first_host(nodes);
  } else {
    return invalid_argument("environment: MASTER_ADDR: expected the host of rank 0, found nothing");
  }
  if (const char* text = environment("MASTER_PORT")) {
    SLUICE_ASSIGN_OR_RETURN(launch.port, number("MASTER_PORT", text, 1, 65534));
    // torchrun's own agent listens at that port and says so; the next one is ours.
    const char* taken = environment("TORCHELASTIC_USE_AGENT_STORE");
    if (taken != nullptr && std::strcmp(taken, "True") == 0) launch.port += 1;
  }
  if (const char* text = environment(kListener)) {
    SLUICE_ASSIGN_OR_RETURN(launch.listener, number(kListener, text, -1, 1 << 20));
  }
  return {};
}

}  // namespace

Result<Launch> read_launch(int wanted, const Environment& environment) {
  Launch launch;
  if (wanted == 1) {
    launch.is_rank = true;
    return launch;
  }
  launch.size = launch.local_size = wanted;
  for (const Names& names : kLaunchers) {
    const char* rank = environment(names.rank);
    const char* size = environment(names.size);
    if (rank == nullptr || size == nullptr) continue;
    SLUICE_ASSIGN_OR_RETURN(const int found, number(names.size, size, 1, 1 << 16));
    if (found == 1) continue;  // a job of one process, which starts its ranks itself
    if (found != wanted)
      return invalid_argument("tp: {} ranks, but {} started {} processes ({}); one process is one rank", wanted,
                              names.launcher, found, names.size);
    SLUICE_ASSIGN_OR_RETURN(launch.rank, number(names.rank, rank, 0, wanted - 1));
    const char* local = names.local_size ? environment(names.local_size) : nullptr;
    launch.local_size = 1;
    if (local != nullptr) {
      SLUICE_ASSIGN_OR_RETURN(launch.local_size, number(names.local_size, local, 1, wanted));
    }
    launch.is_rank = true;
    SLUICE_RETURN_IF_ERROR(read_master(environment, launch));
    return launch;
  }
  return launch;
}

Result<Launch> read_launch(int wanted) {
  return read_launch(wanted, [](const char* name) -> const char* { return std::getenv(name); });
}

std::string launch_variables(const Launch& launch) {
  return fmt::format(
      "RANK={}\nWORLD_SIZE={}\nLOCAL_WORLD_SIZE={}\nMASTER_ADDR={}\nMASTER_PORT={}\n{}={}\n"
      "TORCHELASTIC_USE_AGENT_STORE=False\n",
      launch.rank, launch.size, launch.local_size, launch.host, launch.port, kListener, launch.listener);
}

std::string first_host(const std::string& nodes) {
  const size_t open = nodes.find('[');
  if (open == std::string::npos || open > nodes.find(',')) return nodes.substr(0, nodes.find(','));
  return nodes.substr(0, open) + nodes.substr(open + 1, nodes.find_first_of("-,]", open) - open - 1);
}

}  // namespace sluice
