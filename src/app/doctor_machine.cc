#include <sys/resource.h>
#include <sys/timex.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "sluice/thread_team.h"

#include "app/doctor.h"
#include "base/machine_bounds.h"
#include "base/machine_limits.h"
#include "gpu/device_name.h"
#include "kernels/registry.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

constexpr double kGiB = 1 << 30;

std::string first_line(const std::string& file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

// The value of the first "key : value" line of /proc/cpuinfo.
std::string cpu_field(const std::string& key) {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key))
      if (const size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "unknown";
}

Finding instructions(const Options& options) {
  const std::string model = cpu_field("model name");
  const bool on_gpu = is_cuda_device(options.device);  // the CPU then feeds it, and packs weights
  const Result<const Backend*> backend = find_backend(on_gpu ? "auto" : options.device);
  if (!backend.ok())
    return {"instructions", Verdict::kFail, fmt::format("{}: {}", model, backend.status().message()),
            "take another --device, or a machine with AVX2 and FMA"};
  const std::string found = fmt::format("{}: device {} takes {}", model, options.device, (*backend)->name);
  if (std::string((*backend)->name) == "ref")
    return {"instructions", Verdict::kWarn, found, "the oracle is for comparisons; leave --device out"};
  if (!__builtin_cpu_supports("avx512vnni"))
    return {"instructions", Verdict::kWarn, found,
            "without AVX-512 VNNI, INT4 and INT8 weights are multiplied at about half the speed"};
  return {"instructions", Verdict::kOk, found, ""};
}

Finding cpus(const Options& options) {
  const auto quota = group_limits().cpus;
  const int usable = ThreadTeam::available_cpus();
  const int threads = options.threads > 0 ? options.threads : usable;
  const std::string found = fmt::format("{} threads on {} usable CPUs{}", threads, usable,
                                        quota ? fmt::format(" (quota {:.2g})", *quota) : "");
  if (threads > usable)
    return {"cpus", Verdict::kWarn, found,
            fmt::format("set threads to {}: more of them wait for each other in every step", usable)};
  if (quota && *quota < usable)
    return {"cpus", Verdict::kWarn, found,
            "the quota is no whole number of CPUs: a throttled thread holds up each step; lower threads or raise it"};
  double load = 0;
  std::istringstream(first_line("/proc/loadavg")) >> load;
  if (load > 0.5 * usable + 0.5)
    return {"cpus", Verdict::kWarn, fmt::format("{}; load of others {:.1f}", found, load),
            "other work shares the CPUs: token times will vary; move it, or lower threads"};
  return {"cpus", Verdict::kOk, found, ""};
}

Finding frequency() {
  const std::string governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (governor == "powersave" && !fs::exists("/sys/devices/system/cpu/intel_pstate"))
    return {"frequency", Verdict::kWarn, "the governor is powersave",
            "cpupower frequency-set -g performance (or schedutil)"};
  return {"frequency", Verdict::kOk, governor.empty() ? "left to the hypervisor" : "the governor is " + governor, ""};
}

// A decode step reads all active weights once, so this is what bounds tokens per second.
Finding bandwidth(const Options& options) {
  constexpr int64_t kNeeded = int64_t{3} << 29;  // BoundMeter's buffer is 512 MiB; never the last of the memory
  if (available_memory() < kNeeded)
    return {"bandwidth", Verdict::kWarn, "not measured: less than 1.5 GiB of free memory", "free some, and ask again"};
  ThreadTeam team(options.threads > 0 ? options.threads : ThreadTeam::available_cpus());
  const MachineBounds bounds = BoundMeter(team).measure();
  const std::string found =
      fmt::format("reads {:.1f} GB/s, {:.0f} GFLOP/s in f32, {:.0f} Gop/s in int8, with {} threads",
                  bounds.read_gb_per_second, bounds.f32_gop_per_second, bounds.int8_gop_per_second, team.size());
  if (bounds.read_gb_per_second < 5)
    return {"bandwidth", Verdict::kWarn, found,
            "one memory channel gives 20 or more: a busy neighbour, a throttled container, or one slow DIMM"};
  return {"bandwidth", Verdict::kOk, found, ""};
}

Finding huge_pages() {
  const std::string modes = first_line("/sys/kernel/mm/transparent_hugepage/enabled");  // "always [madvise] never"
  if (modes.empty())
    return {"huge pages", Verdict::kWarn, "the kernel has no transparent huge pages",
            "weights are read through 4 KiB pages, some percent slower"};
  if (modes.find("[never]") != std::string::npos)
    return {"huge pages", Verdict::kWarn, "transparent huge pages are off",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"};
  return {"huge pages", Verdict::kOk, "transparent huge pages: " + modes, ""};
}

Finding numa() {
  int nodes = 0;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/devices/system/node", error))
    nodes += entry.path().filename().string().starts_with("node");
  if (nodes <= 1) return {"numa", Verdict::kOk, "one memory node", ""};
  return {"numa", Verdict::kWarn, fmt::format("{} memory nodes", nodes),
          "threads read weights of other sockets through the link between them: run one server a socket (numactl "
          "--cpunodebind=0 --membind=0), or --interleave=all for a model that needs them all"};
}

Finding memory_limits() {
  const GroupLimits limits = group_limits();
  const double free = static_cast<double>(available_memory()) / kGiB;
  if (!limits.memory_bytes) return {"memory", Verdict::kOk, fmt::format("{:.1f} GiB free, no group limit", free), ""};
  return {"memory", Verdict::kOk,
          fmt::format("{:.1f} GiB free under a group limit of {:.1f} GiB", free,
                      static_cast<double>(*limits.memory_bytes) / kGiB),
          ""};
}

Finding swap() {
  std::ifstream in("/proc/swaps");
  std::string header, device;
  std::getline(in, header);
  if (!(in >> device)) return {"swap", Verdict::kOk, "none", ""};
  const std::string swappiness = first_line("/proc/sys/vm/swappiness");
  if (swappiness == "0" || swappiness == "1")
    return {"swap", Verdict::kOk, device + ", hardly used (swappiness " + swappiness + ")", ""};
  return {"swap", Verdict::kWarn, device + ", swappiness " + swappiness,
          "swapped weights stop the server for seconds: swapoff -a, or sysctl vm.swappiness=1"};
}

Finding open_files() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  // A connection needs one; HTTP alone takes up to 8,192.
  constexpr rlim_t kWanted = 16384;
  const std::string found = fmt::format("{} open files at most", limit.rlim_max);
  if (limit.rlim_max >= kWanted) return {"open files", Verdict::kOk, found, ""};
  return {"open files", Verdict::kWarn, found,
          fmt::format("each client's connection is one: ulimit -Hn {}, or LimitNOFILE in the unit", kWanted)};
}

Finding clock_state() {
  timex state{};
  const int synchronised = adjtimex(&state);
  const std::string source = first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  constexpr std::time_t kThisIsWritten = 1'760'000'000;  // October 2025
  if (std::time(nullptr) < kThisIsWritten)
    return {"clock", Verdict::kFail, "the time of day lies in the past",
            "certificates are not valid yet by this clock: set it (chronyc makestep)"};
  if (source == "hpet" || source == "acpi_pm")
    return {"clock", Verdict::kWarn, "clock source " + source,
            "reading it takes microseconds: see why tsc was given up"};
  if (synchronised == TIME_ERROR)
    return {"clock", Verdict::kWarn, "not synchronised (source " + source + ")",
            "times in logs and traces of several machines do not agree: run chrony or ntpd on the host"};
  return {"clock", Verdict::kOk, "synchronised, source " + source, ""};
}

Finding cuda(const Options& options) {
  const std::string driver = first_line("/proc/driver/nvidia/version");
  int devices = 0;
  for (int i = 0; i < 64; ++i) devices += fs::exists(fmt::format("/dev/nvidia{}", i));
  if (driver.empty() && devices == 0) {
    if (is_cuda_device(options.device))
      return {"cuda", Verdict::kFail, fmt::format("device {} is wanted, but there is no NVIDIA device", options.device),
              "docker run --gpus all, or nvidia.com/gpu in the pod's limits; or leave --device out"};
    return {"cuda", Verdict::kOk, "no NVIDIA device: the CPU serves", ""};
  }
  if (driver.empty() || devices == 0)
    return {"cuda", Verdict::kWarn, fmt::format("{} devices, driver \"{}\"", devices, driver),
            devices == 0
                ? "the driver is there but no /dev/nvidia*: give the container its devices (nvidia-container-toolkit)"
                : "devices without a driver: load the nvidia module"};
  return {"cuda", Verdict::kOk, fmt::format("{} devices; {}", devices, driver), ""};
}

}  // namespace

void examine_machine(const Options& options, std::vector<Finding>& out) {
  out.push_back(instructions(options));
  out.push_back(cpus(options));
  out.push_back(frequency());
  out.push_back(bandwidth(options));
  out.push_back(huge_pages());
  out.push_back(numa());
  out.push_back(memory_limits());
  out.push_back(swap());
  out.push_back(open_files());
  out.push_back(clock_state());
  out.push_back(cuda(options));
}

}  // namespace sluice
