#include "server/zip_writer.h"

#include <zlib.h>

#include <concepts>
#include <utility>

#include "sluice/check.h"

namespace sluice {

namespace {

constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEndRecord = 0x06054b50;
constexpr uint16_t kVersion = 10;  // 1.0: plain files
// A fixed time (1980-01-01 00:00:00, the format's first), so that the archive depends on the files alone.
constexpr uint16_t kTime = 0, kDate = (1 << 5) | 1;

// Little-endian, as the format and this machine are.
template <std::unsigned_integral... Fields>
void append(std::string* to, Fields... fields) {
  (to->append(reinterpret_cast<const char*>(&fields), sizeof(fields)), ...);
}

// What both headers of an entry have in the middle: version needed, flags, method, time, date, checksum, sizes,
// lengths.
void append_common(std::string* to, uint32_t checksum, uint32_t size, uint16_t name_length) {
  append(to, kVersion, uint16_t{0}, uint16_t{0}, kTime, kDate, checksum, size, size, name_length, uint16_t{0});
}

}  // namespace

void ZipWriter::add(std::string_view name, std::string_view data) {
  SLUICE_CHECK(archive_.size() + data.size() < UINT32_MAX / 2 && num_entries_ < UINT16_MAX, "{} bytes of {}",
               data.size(), name);
  const auto size = static_cast<uint32_t>(data.size());
  const auto name_length = static_cast<uint16_t>(name.size());
  const auto checksum = static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(data.data()), size));
  const auto offset = static_cast<uint32_t>(archive_.size());
  append(&archive_, kLocalHeader);
  append_common(&archive_, checksum, size, name_length);
  archive_.append(name).append(data);

  append(&directory_, kCentralHeader, kVersion);
  append_common(&directory_, checksum, size, name_length);
  // comment length, disk, internal attributes, external attributes, offset of the local header
  append(&directory_, uint16_t{0}, uint16_t{0}, uint16_t{0}, uint32_t{0}, offset);
  directory_.append(name);
  ++num_entries_;
}

std::string ZipWriter::finish() {
  std::string out = std::exchange(archive_, {});
  const auto begin = static_cast<uint32_t>(out.size()), size = static_cast<uint32_t>(directory_.size());
  out += std::exchange(directory_, {});
  const uint16_t count = std::exchange(num_entries_, uint16_t{0});
  append(&out, kEndRecord, uint16_t{0}, uint16_t{0}, count, count, size, begin, uint16_t{0});
  return out;
}

}  // namespace sluice
