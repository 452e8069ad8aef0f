// A file that lives in memory, has a name for libraries that read files by name, and is replaced as a whole: a reader
// opens the old content or the new, never a mixture. Owns the memory. Works on read-only file systems.
#pragma once

#include <string>

#include "sluice/status.h"

namespace sluice {

class MemoryFile {
 public:
  MemoryFile() = default;
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // The first call creates it. INTERNAL if the machine refuses; the content of before then stays.
  Status replace(const std::string& content);
  // "/proc/self/fd/N"; empty before the first replace(). For this process alone.
  std::string path() const;

 private:
  int descriptor_ = -1;
};

}  // namespace sluice
