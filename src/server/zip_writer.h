// A zip archive in memory, entries stored as they are: the same files give the same bytes. Under 4 GiB and 65,536
// entries, as the format without extensions wants it. One thread.
//
//   local header, name, data | ... | central header, name | ... | end record
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace sluice {

class ZipWriter {
 public:
  // `name` is a plain file name.
  void add(std::string_view name, std::string_view data);
  std::string finish();  // the archive; the writer is empty then

 private:
  std::string archive_;    // local headers and data
  std::string directory_;  // central headers
  uint16_t num_entries_ = 0;
};

}  // namespace sluice
