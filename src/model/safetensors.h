// One safetensors file, memory-mapped and validated. Owns the mapping; hands out views into it. Refuses everything that
// is not exactly the format, before any view exists, so that no later read can leave the file. Knows no model. Opened
// by Checkpoint at load time; afterwards const, read by many threads.
//
//   | u64 N, little-endian | header: N bytes of JSON | data: tensors back to back, in any order, no hole, no overlap |
//   0                      8                         8 + N                                                       size
//
//   header: {"__metadata__": {"k": "v"}, "name": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, ...}
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "sluice/status.h"
#include "sluice/tensor.h"

namespace sluice {

using TensorMap = std::map<std::string, TensorView>;

// The tensors of a file's bytes; the views point into `file`. DATA_LOSS names `path`, tensor, expected and found.
// Takes at most a small multiple of the header's length of memory.
Result<TensorMap> parse_safetensors(std::span<const std::byte> file, const std::string& path);

class SafetensorsFile {
 public:
  // NOT_FOUND, FAILED_PRECONDITION (no regular file, not readable), DATA_LOSS (not the format).
  // A file that another process shortens later still kills the reader: files in use must not be changed.
  static Result<SafetensorsFile> open(const std::string& path);

  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&& other) noexcept;
  ~SafetensorsFile();

  const std::string& path() const { return path_; }
  int64_t file_bytes() const { return static_cast<int64_t>(mapping_.size()); }
  const TensorMap& tensors() const { return tensors_; }
  const TensorView* find(const std::string& name) const;  // nullptr when absent

 private:
  SafetensorsFile(std::string path, std::span<const std::byte> mapping);

  std::string path_;
  std::span<const std::byte> mapping_;
  TensorMap tensors_;
};

}  // namespace sluice
