#include "model/shard.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

namespace sluice {

namespace {

constexpr size_t kReadBytes = size_t{1} << 20;  // streams at the speed of the page cache, small beside a tensor

Status io_error(const std::string& path, const char* what) {
  const int error = errno;
  const StatusCode code = error == ENOSPC || error == EDQUOT ? StatusCode::kResourceExhausted
                                                             : StatusCode::kFailedPrecondition;
  return {code, fmt::format("{}: cannot be {}: {}", path, what, std::strerror(error))};
}

// The checksum of everything from `offset` to the end; nullopt if it cannot be read.
std::optional<uint64_t> checksum_from(int fd, int64_t offset) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  std::vector<char> block(kReadBytes);
  ssize_t got = 0;
  while ((got = pread(fd, block.data(), block.size(), offset)) > 0) {
    XXH3_64bits_update(state, block.data(), static_cast<size_t>(got));
    offset += got;
  }
  const uint64_t digest = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return got == 0 ? std::optional(digest) : std::nullopt;
}

}  // namespace

Shard::Shard(std::string path, std::vector<ShardTensor> tensors, const std::string& made_from)
    : path_(std::move(path)), made_from_(made_from), tensors_(std::move(tensors)) {
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const ShardTensor& a, const ShardTensor& b) {
    return size_of(a.dtype) > size_of(b.dtype);
  });
  for (const ShardTensor& tensor : tensors_) {
    offsets_[tensor.name] = data_bytes_;
    data_bytes_ += tensor.bytes();
  }
  data_begin_ = static_cast<int64_t>(sizeof(uint64_t) + header(0).size());
}

Shard::~Shard() {
  if (fd_ >= 0) close(fd_);
}

// The same length for every checksum. Padded with spaces, so that the data begins aligned to 8 bytes.
std::string Shard::header(uint64_t checksum) const {
  nlohmann::ordered_json json;
  json["__metadata__"] = {{"format", "pt"}, {"made_from", made_from_}, {"xxh3_64", fmt::format("{:016x}", checksum)}};
  for (const ShardTensor& tensor : tensors_) {
    const int64_t begin = offsets_.at(tensor.name);
    const auto& dims = tensor.shape.dims;
    json[tensor.name] = {{"dtype", name(tensor.dtype)},
                         {"shape", std::vector<int64_t>(dims.begin(), dims.begin() + tensor.shape.rank)},
                         {"data_offsets", {begin, begin + tensor.bytes()}}};
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

bool Shard::is_complete() const {
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return false;
  bool complete = false;
  struct stat info {};
  if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size == file_bytes()) {
    if (const std::optional<uint64_t> checksum = checksum_from(fd, data_begin_)) {
      const std::string expected = header(*checksum);
      std::string found(expected.size(), '\0');
      const uint64_t length = expected.size();
      uint64_t stored = 0;
      complete = pread(fd, &stored, sizeof(stored), 0) == sizeof(stored) && stored == length &&
                 pread(fd, found.data(), found.size(), 8) == static_cast<ssize_t>(found.size()) && found == expected;
    }
  }
  close(fd);
  return complete;
}

Status Shard::create() {
  const std::string part = path_ + ".part";
  fd_ = ::open(part.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) return io_error(part, "created");
  if (const int error = posix_fallocate(fd_, 0, file_bytes()); error == ENOSPC) {
    errno = error;
    return io_error(part, fmt::format("extended to {} bytes", file_bytes()).c_str());
  }
  return {};
}

Status Shard::write_at(int64_t offset, const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = pwrite(fd_, next, bytes, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return io_error(path_ + ".part", "written");
    next += done;
    offset += done;
    bytes -= static_cast<size_t>(done);
  }
  return {};
}

Status Shard::write(const std::string& tensor, int64_t offset, std::span<const std::byte> bytes) {
  return write_at(data_begin_ + offsets_.at(tensor) + offset, bytes.data(), bytes.size());
}

Status Shard::finish() {
  const std::string part = path_ + ".part";
  const std::optional<uint64_t> checksum = checksum_from(fd_, data_begin_);
  if (!checksum) return io_error(part, "read back");
  const std::string text = header(*checksum);
  const uint64_t length = text.size();
  SLUICE_RETURN_IF_ERROR(write_at(0, &length, sizeof(length)));
  SLUICE_RETURN_IF_ERROR(write_at(sizeof(length), text.data(), text.size()));
  if (fsync(fd_) != 0) return io_error(part, "flushed");
  close(std::exchange(fd_, -1));
  if (std::rename(part.c_str(), path_.c_str()) != 0) return io_error(part, "renamed");
  return {};
}

}  // namespace sluice
