// One safetensors file on its way to disk, which tells by itself whether it is whole. Owns the file under its temporary
// name; knows no model. Called by quantize_checkpoint.cc from one thread.
//
//   PATH.part   header, then tensors in any order of writing; the header's checksum still reads 0
//   finish():   the checksum of all data goes into the header, the bytes to disk, the file to PATH
//
// So PATH is either absent or was whole once; is_complete() reads it again and believes nothing else. The metadata names
// what the file was made from, too: shards of another source or another format count as absent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "sluice/status.h"
#include "sluice/tensor.h"

namespace sluice {

struct ShardTensor {
  std::string name;
  DType dtype = DType::kBF16;
  Shape shape;

  int64_t bytes() const { return shape.num_elements() * size_of(dtype); }
};

class Shard {
 public:
  // `made_from`: printable, without quotes.
  Shard(std::string path, std::vector<ShardTensor> tensors, const std::string& made_from);
  ~Shard();  // an unfinished file stays as PATH.part, for whoever wants to look at it; the next run writes over it
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  // Whether PATH holds exactly this header and data of the checksum it names.
  bool is_complete() const;

  // RESOURCE_EXHAUSTED if the disk is full, FAILED_PRECONDITION for other reasons; all name the file.
  Status create();
  Status write(const std::string& tensor, int64_t offset, std::span<const std::byte> bytes);  // offset in the tensor
  Status finish();

  const std::string& path() const { return path_; }
  int64_t file_bytes() const { return data_begin_ + data_bytes_; }

 private:
  std::string header(uint64_t checksum) const;
  Status write_at(int64_t offset, const void* data, size_t bytes);

  std::string path_;
  std::string made_from_;
  std::vector<ShardTensor> tensors_;        // as they lie in the file: widest elements first, so that all are aligned
  std::map<std::string, int64_t> offsets_;  // in the data
  int64_t data_begin_ = 0;  // in the file
  int64_t data_bytes_ = 0;
  int fd_ = -1;
};

}  // namespace sluice
