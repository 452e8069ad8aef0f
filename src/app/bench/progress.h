// A line on the terminal that redraws itself: how far a run is. Silent where standard error is no terminal. Any thread,
// one at a time.
#pragma once

#include <cstdint>
#include <string>

namespace sluice {

class Progress {
 public:
  Progress(std::string label, int64_t total);
  ~Progress();  // wipes the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(int64_t done, const std::string& note);

 private:
  const std::string label_;
  const int64_t total_;
  const bool shown_;
};

}  // namespace sluice
