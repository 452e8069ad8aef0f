#include "app/bench/noise.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace sluice {

namespace {

// user + nice + system + irq + softirq + steal of all CPUs; idle and iowait are the fourth and fifth column.
double busy_cpu_seconds() {
  std::ifstream file("/proc/stat");
  std::string label;
  file >> label;
  double total = 0;
  for (int column = 0; column < 8; ++column) {
    double ticks = 0;
    file >> ticks;
    if (column != 3 && column != 4) total += ticks;
  }
  return total / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double own_cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

NoiseMeter::NoiseMeter()
    : busy_(busy_cpu_seconds()), own_(own_cpu_seconds()), begin_(std::chrono::steady_clock::now()) {}

double NoiseMeter::foreign_cpus() const {
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  const double foreign = (busy_cpu_seconds() - busy_) - (own_cpu_seconds() - own_);
  return wall <= 0 ? 0 : std::max(0.0, foreign / wall);
}

}  // namespace sluice
