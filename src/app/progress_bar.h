// A line on the terminal that redraws itself, and is silent elsewhere (logs tell the end). Called from one thread.
#pragma once

#include <cstdint>
#include <string>

namespace sluice {

class ProgressBar {
 public:
  ProgressBar(std::string what, int64_t total_bytes);
  ~ProgressBar();  // takes the line away
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void show(int64_t done_bytes);

 private:
  const std::string what_;
  const int64_t total_;
  const bool shown_;
};

}  // namespace sluice
