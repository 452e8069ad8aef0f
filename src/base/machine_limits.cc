#include "base/machine_limits.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

namespace sluice {

namespace {

// Version 1 says "unlimited" by the largest multiple of a page.
constexpr int64_t kUnlimited = int64_t{1} << 62;

std::optional<int64_t> read_number(const std::string& file) {
  std::ifstream in(file);
  int64_t number = 0;
  return in >> number ? std::optional(number) : std::nullopt;  // "max" is none
}

// The value behind `key` of a file of "key value" lines.
int64_t read_entry(const std::string& file, const std::string& key) {
  std::ifstream in(file);
  std::string name, unit;
  for (int64_t value = 0; in >> name >> value && std::getline(in, unit);)
    if (name == key) return value;
  return 0;
}

void tighten(auto& limit, auto value) { limit = limit ? std::min(*limit, value) : value; }

// From a group up to the top of its hierarchy. In a container the path in /proc/self/cgroup may be the host's, of which
// only the top is mounted: folders that are not there are passed over.
std::vector<std::string> folders(const std::string& mount, std::string path) {
  std::vector<std::string> out;
  while (path.size() > 1) {
    out.push_back(mount + path);
    path.erase(path.rfind('/'));
  }
  out.push_back(mount);
  return out;
}

void read_memory(const std::string& limit_file, const std::string& usage_file, const std::string& stat_file,
                 const std::string& cache_key, GroupLimits* out) {
  const auto limit = read_number(limit_file), usage = read_number(usage_file);
  if (!limit || !usage || *limit >= kUnlimited) return;
  tighten(out->memory_bytes, *limit);
  tighten(out->memory_available, std::max<int64_t>(0, *limit - *usage + read_entry(stat_file, cache_key)));
}

void read_folder_2(const std::string& folder, GroupLimits* out) {
  read_memory(folder + "/memory.max", folder + "/memory.current", folder + "/memory.stat", "inactive_file", out);
  std::ifstream in(folder + "/cpu.max");
  double quota = 0, period = 0;
  if (in >> quota >> period && period > 0) tighten(out->cpus, quota / period);
}

void read_memory_1(const std::string& folder, GroupLimits* out) {
  read_memory(folder + "/memory.limit_in_bytes", folder + "/memory.usage_in_bytes", folder + "/memory.stat",
              "total_inactive_file", out);
}

void read_cpus_1(const std::string& folder, GroupLimits* out) {
  const auto quota = read_number(folder + "/cpu.cfs_quota_us"), period = read_number(folder + "/cpu.cfs_period_us");
  if (quota && period && *quota > 0 && *period > 0)
    tighten(out->cpus, static_cast<double>(*quota) / static_cast<double>(*period));
}

bool holds(const std::string& controllers, const std::string& wanted) {
  std::istringstream in(controllers);
  for (std::string name; std::getline(in, name, ',');)
    if (name == wanted) return true;
  return false;
}

}  // namespace

GroupLimits group_limits(const std::string& root) {
  GroupLimits out;
  std::ifstream groups(root + "/proc/self/cgroup");  // "0::/path" of version 2, "4:memory:/path" of version 1
  const std::string mount = root + "/sys/fs/cgroup";
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) {
      for (const std::string& folder : folders(mount, path)) read_folder_2(folder, &out);
    } else if (holds(controllers, "memory")) {
      for (const std::string& folder : folders(mount + "/memory", path)) read_memory_1(folder, &out);
    } else if (holds(controllers, "cpu")) {
      for (const std::string& folder : folders(mount + "/" + controllers, path)) read_cpus_1(folder, &out);
    }
  }
  return out;
}

int64_t available_memory(const std::string& root) {
  const int64_t machine = read_entry(root + "/proc/meminfo", "MemAvailable:") * 1024;
  return std::min(machine, group_limits(root).memory_available.value_or(machine));
}

}  // namespace sluice
