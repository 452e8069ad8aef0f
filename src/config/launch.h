// Which rank of a group this process is, as whoever launched it says in the environment: `sluice` itself (its parent
// process starts the ranks of one machine), torchrun, Slurm's srun, Open MPI's mpirun, or a Kubernetes LeaderWorkerSet.
// One process is one rank. Pure functions of the options and the environment.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "sluice/status.h"

namespace sluice {

constexpr int kDefaultMasterPort = 29511;

struct Launch {
  bool is_rank = false;  // false: nobody launched ranks; with several wanted this process starts them
  int rank = 0;
  int size = 1;
  int local_size = 1;              // ranks on this machine, as far as the launcher says; they share its CPUs and memory
  std::string host = "127.0.0.1";  // of rank 0
  int port = kDefaultMasterPort;
  int listener = -1;  // rank 0 under `sluice` itself: a listening socket that it inherits

  bool leads() const { return rank == 0; }
};

// The value of an environment variable, or null.
using Environment = std::function<const char*(const char* name)>;

// `wanted` ranks (option tp). One rank: launchers are not asked. INVALID_ARGUMENT names the variable where the launcher
// started another number of processes, or does not say who is rank 0.
Result<Launch> read_launch(int wanted, const Environment& environment);
Result<Launch> read_launch(int wanted);  // of this process

// The variables that make a process rank `launch.rank` of the group, for those that `sluice` starts itself.
std::string launch_variables(const Launch& launch);

// The first host of Slurm's list: "node[07-09,12],other" is "node07".
std::string first_host(const std::string& nodes);

}  // namespace sluice
