// How much of the machine other processes used while something was measured: a figure taken beside a busy neighbour
// must say so. Reads /proc/stat and the process's own times; owns two numbers.
#pragma once

#include <chrono>

namespace sluice {

class NoiseMeter {
 public:
  NoiseMeter();
  // CPUs kept busy by others since the constructor, 0 on a quiet machine; negative noise of the counters is cut.
  double foreign_cpus() const;

 private:
  double busy_, own_;  // seconds of CPU time
  std::chrono::steady_clock::time_point begin_;
};

}  // namespace sluice
