// What this process may use of the machine: memory and CPUs, with the limits of the control groups that a container
// sets, which neither /proc/meminfo nor the affinity mask shows. A plan that looks at those alone is killed in its pod.
// Reads files anew at each call.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace sluice {

// Of the groups that the process is in and all above them, the tightest. Version 1 and 2 of control groups.
struct GroupLimits {
  std::optional<int64_t> memory_bytes;      // limit; none: unlimited
  std::optional<int64_t> memory_available;  // of it: what is not used yet, or is file cache that can be dropped
  std::optional<double> cpus;               // quota / period
};

// `root` is put before "/proc" and "/sys"; tests have their own.
GroupLimits group_limits(const std::string& root = "");

// Bytes that could be allocated without swapping or being killed.
int64_t available_memory(const std::string& root = "");

}  // namespace sluice
