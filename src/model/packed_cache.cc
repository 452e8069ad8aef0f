#include "model/packed_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "sluice/log.h"
#include "sluice/quantize.h"

namespace sluice {

namespace {

constexpr char kMagic[] = "SLUICEPW";
constexpr uint64_t kVersion = 1;
constexpr size_t kBlock = 64;  // of header, record and padding
// What a thread reads or hashes at a time: larger than the cost of a call, within L2, so that hashing finds it there.
constexpr int64_t kChunkBytes = int64_t{1} << 19;

struct Header {
  char magic[8];
  uint64_t version, key;
  char unused[kBlock - 24];
};

struct Record {
  uint64_t bytes, checksum;
  char unused[kBlock - 16];
};

static_assert(sizeof(Header) == kBlock && sizeof(Record) == kBlock);

Header header_for(uint64_t key) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof(header.magic));
  header.version = kVersion;
  header.key = key;
  return header;
}

bool read_all(int fd, void* data, size_t bytes, int64_t offset) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = pread(fd, next, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    next += got;
    offset += got;
    bytes -= static_cast<size_t>(got);
  }
  return true;
}

bool write_all(int fd, const void* data, size_t bytes, int64_t offset) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = pwrite(fd, next, bytes, offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    next += done;
    offset += done;
    bytes -= static_cast<size_t>(done);
  }
  return true;
}

// The hash of the hashes of all chunks; prepare(chunk begin, chunk bytes) comes before each, on the same thread, and
// may fail.
template <typename Prepare>
bool hash_chunks(const std::byte* data, int64_t bytes, ThreadTeam& team, uint64_t& checksum, const Prepare& prepare) {
  const int64_t chunks = (bytes + kChunkBytes - 1) / kChunkBytes;
  std::vector<uint64_t> hashes(static_cast<size_t>(chunks));
  std::atomic<bool> ok{true};
  team.parallel_for(chunks, 1, [&](int64_t first, int64_t last, int) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kChunkBytes, size = std::min(kChunkBytes, bytes - begin);
      if (!prepare(begin, static_cast<size_t>(size))) ok = false;
      hashes[static_cast<size_t>(chunk)] = XXH3_64bits(data + begin, static_cast<size_t>(size));
    }
  });
  checksum = XXH3_64bits(hashes.data(), hashes.size() * sizeof(uint64_t));
  return ok;
}

int64_t padded(int64_t bytes) { return (bytes + int64_t{kBlock} - 1) / int64_t{kBlock} * int64_t{kBlock}; }

}  // namespace

PackedCache::PackedCache(std::string path, uint64_t key) : path_(std::move(path)) {
  const Header expected = header_for(key);
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block
  if (fd_ >= 0) {
    Header found{};
    struct stat info {};
    if (fstat(fd_, &info) == 0 && S_ISREG(info.st_mode) && read_all(fd_, &found, sizeof(found), 0) &&
        std::memcmp(&found, &expected, sizeof(found)) == 0) {
      mode_ = Mode::kReading;
      offset_ = sizeof(Header);
      return;
    }
    log_warn("{}: is of another model, machine or version, and is written anew", path_);
    close(fd_);
  }
  const std::string part = path_ + ".part";
  fd_ = ::open(part.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  mode_ = Mode::kWriting;
  offset_ = sizeof(Header);
  if (fd_ < 0 || !write_all(fd_, &expected, sizeof(expected), 0)) give_up(std::strerror(errno));
}

PackedCache::~PackedCache() {
  if (mode_ == Mode::kWriting) std::remove((path_ + ".part").c_str());
  if (fd_ >= 0) close(fd_);
}

void PackedCache::give_up(const std::string& why) {
  log_warn("{}: {}; the weights are packed without it", path_, why);
  std::remove((mode_ == Mode::kWriting ? path_ + ".part" : path_).c_str());
  mode_ = Mode::kOff;
}

bool PackedCache::read(Buffer& buffer, ThreadTeam& team) {
  if (mode_ != Mode::kReading) return false;
  Record record{};
  if (!read_all(fd_, &record, sizeof(record), offset_)) {
    give_up("ends early");
    return false;
  }
  if (record.bytes != buffer.size()) {
    give_up(fmt::format("expected {} bytes at {}, found {}", buffer.size(), offset_, record.bytes));
    return false;
  }
  const int64_t begin = offset_ + static_cast<int64_t>(sizeof(record));
  const auto bytes = static_cast<int64_t>(buffer.size());
  uint64_t checksum = 0;
  const bool whole = hash_chunks(buffer.data(), bytes, team, checksum, [&](int64_t at, size_t size) {
    return read_all(fd_, buffer.data() + at, size, begin + at);
  });
  if (!whole || checksum != record.checksum) {
    give_up(whole ? fmt::format("the data at {} do not match their checksum", begin) : "ends early");
    return false;
  }
  offset_ = begin + padded(bytes);
  return true;
}

void PackedCache::add(const Buffer& buffer, ThreadTeam& team) {
  if (mode_ != Mode::kWriting) return;
  Record record{};
  record.bytes = buffer.size();
  const auto bytes = static_cast<int64_t>(buffer.size());
  hash_chunks(buffer.data(), bytes, team, record.checksum, [](int64_t, size_t) { return true; });
  const int64_t begin = offset_ + static_cast<int64_t>(sizeof(record));
  offset_ = begin + padded(bytes);
  if (!write_all(fd_, &record, sizeof(record), begin - static_cast<int64_t>(sizeof(record))) ||
      !write_all(fd_, buffer.data(), buffer.size(), begin))
    give_up(std::strerror(errno));
}

void PackedCache::finish() {
  if (mode_ != Mode::kWriting) return;
  if (fsync(fd_) != 0 || std::rename((path_ + ".part").c_str(), path_.c_str()) != 0) {
    give_up(std::strerror(errno));
    return;
  }
  mode_ = Mode::kOff;
  log_info("{}: {} bytes of packed weights for the next start", path_, offset_);
}

uint64_t packed_layout(const WeightPacking& packing, WeightFormat format) {
  constexpr int64_t kRows = 80, kCols = 256;  // whole blocks of panels and a part of one, two groups of the largest kind
  std::vector<float> values(kRows * kCols);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(static_cast<int32_t>(i * 2654435761u >> 16 & 1023) - 512) * 1e-4f;
  uint64_t hash = 0;
  for (const WeightFormat each : {format, WeightFormat::kInt8, WeightFormat::kBF16, WeightFormat::kF32}) {
    if (!packing.supports(each)) continue;
    std::vector<std::byte> packed(static_cast<size_t>(packing.packed_bytes(each, kRows, kCols)));
    packing.pack({each, kRows, kCols, packed.data()}, 0, kRows, values.data(), packed.data());
    hash = XXH3_64bits_withSeed(packed.data(), packed.size(), hash);
  }
  return hash;
}

}  // namespace sluice
