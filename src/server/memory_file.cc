#include "server/memory_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace sluice {

MemoryFile::~MemoryFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

// A new file is written first; then its descriptor takes the old one's number, and with it the name, in one step.
Status MemoryFile::replace(const std::string& content) {
  const int fresh = memfd_create("sluice", MFD_CLOEXEC);
  const auto fail = [fresh](const char* what) {
    const Status status = internal_error("{}: {}", what, std::strerror(errno));
    if (fresh >= 0) close(fresh);
    return status;
  };
  if (fresh < 0) return fail("memfd_create");
  for (std::string_view rest = content; !rest.empty();) {
    const ssize_t written = write(fresh, rest.data(), rest.size());
    if (written < 0) return fail("writing to memory");
    rest.remove_prefix(static_cast<size_t>(written));
  }
  if (descriptor_ < 0) {
    descriptor_ = fresh;
    return {};
  }
  if (dup3(fresh, descriptor_, O_CLOEXEC) < 0) return fail("dup3");
  close(fresh);
  return {};
}

std::string MemoryFile::path() const {
  return descriptor_ < 0 ? std::string() : "/proc/self/fd/" + std::to_string(descriptor_);
}

}  // namespace sluice
