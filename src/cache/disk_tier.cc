#include "cache/disk_tier.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "sluice/log.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace sluice {

namespace {

constexpr uint64_t kFileMagic = 0x315345474150'4C53;  // "SLPAGES1", little endian
constexpr uint64_t kRecordMagic = 0x31434552'45474150;
constexpr uint32_t kVersion = 1;
// Segments per bound: deleting one forgets an eighth of what is kept.
constexpr int64_t kNumSegments = 8;
constexpr int64_t kMaxSaltBytes = 4096, kMaxHidden = 1 << 20;

struct FileHeader {
  uint64_t magic = kFileMagic;
  uint32_t version = kVersion;
  uint32_t page_tokens = kPageTokens;
  uint64_t model_hash = 0, layout_hash = 0;
  int64_t page_bytes = 0;
  uint64_t checksum = 0;  // of the fields before
};

struct RecordHeader {
  uint64_t magic = kRecordMagic;
  uint64_t id = 0, parent = 0, role_key = 0;
  int32_t num_tokens = 0, num_hidden = 0, salt_bytes = 0, reserved = 0;
  std::array<TokenId, kPageTokens> tokens{};
  uint64_t payload_checksum = 0;  // of salt, hidden and page
  uint64_t checksum = 0;          // of the fields before
};

template <typename Header>
uint64_t checksum_of(const Header& header) {
  return XXH3_64bits(&header, offsetof(Header, checksum));
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

bool is_sane(const RecordHeader& header, uint64_t last_id) {
  return header.magic == kRecordMagic && header.checksum == checksum_of(header) && header.id > last_id &&
         header.parent < header.id && header.num_tokens >= 1 && header.num_tokens <= kPageTokens &&
         header.num_hidden >= 0 && header.num_hidden <= kMaxHidden && header.salt_bytes >= 0 &&
         header.salt_bytes <= kMaxSaltBytes;
}

bool read_exactly(std::ifstream& file, void* to, int64_t count) {
  return static_cast<bool>(file.read(static_cast<char*>(to), count));
}

}  // namespace

DiskTier::~DiskTier() {
  if (file_ >= 0) ::close(file_);
}

Result<std::unique_ptr<DiskTier>> DiskTier::open(const DiskOptions& options, const Visitor& visit) {
  std::error_code error;
  std::filesystem::create_directories(options.folder, error);
  if (error) return unavailable("{}: cannot be made: {}", options.folder.string(), error.message());
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(options.folder, error))
    if (entry.path().extension() == ".pages") paths.push_back(entry.path());
  if (error) return unavailable("{}: cannot be listed: {}", options.folder.string(), error.message());
  std::ranges::sort(paths);

  std::unique_ptr<DiskTier> tier(new DiskTier(options));
  for (const auto& path : paths) tier->read_segment(path, visit);
  // Runs that saved nothing leave empty segments behind.
  std::erase_if(tier->segments_, [](const Segment& segment) {
    std::error_code ignored;
    const bool is_empty = segment.bytes <= static_cast<int64_t>(sizeof(FileHeader));
    return is_empty && std::filesystem::remove(segment.path, ignored);
  });
  SLUICE_RETURN_IF_ERROR(tier->start_segment());
  return tier;
}

void DiskTier::read_segment(const std::filesystem::path& path, const Visitor& visit) {
  const std::string name = path.filename().string();
  uint64_t number = 0;
  if (std::sscanf(name.c_str(), "segment-%lu.pages", &number) != 1) return;
  next_number_ = std::max(next_number_, number + 1);
  std::ifstream file(path, std::ios::binary);
  FileHeader header;
  FileHeader expected{
      .model_hash = options_.model_hash, .layout_hash = options_.layout_hash, .page_bytes = options_.page_bytes};
  expected.checksum = checksum_of(expected);
  std::error_code ignored;
  Segment segment{path, number, 0, static_cast<int64_t>(std::filesystem::file_size(path, ignored))};
  segments_.push_back(segment);  // counted against the bound, and deleted in its turn, whatever is in it
  if (!read_exactly(file, &header, sizeof header) || std::memcmp(&header, &expected, sizeof header) != 0) {
    log_warn("{}: skipped: of another model, layout or version", path.string());
    return;
  }
  std::vector<std::byte> page(static_cast<size_t>(options_.page_bytes));
  for (RecordHeader record; read_exactly(file, &record, sizeof record);) {
    if (!is_sane(record, last_id_)) {
      log_warn("{}: skipped from byte {} on: not a record", path.string(),
               static_cast<int64_t>(file.tellg()) - static_cast<int64_t>(sizeof record));
      return;
    }
    DiskRecord found{.id = record.id, .parent = record.parent, .role_key = record.role_key};
    found.salt.resize(static_cast<size_t>(record.salt_bytes));
    found.hidden.resize(static_cast<size_t>(record.num_hidden));
    if (!read_exactly(file, found.salt.data(), record.salt_bytes) ||
        !read_exactly(file, found.hidden.data(), record.num_hidden * int64_t{sizeof(float)}) ||
        !read_exactly(file, page.data(), options_.page_bytes)) {
      log_warn("{}: record {} is cut off", path.string(), record.id);
      return;
    }
    last_id_ = record.id;
    if (segments_.back().first_id == 0) segments_.back().first_id = record.id;
    uint64_t checksum = XXH3_64bits(found.salt.data(), found.salt.size());
    checksum = XXH3_64bits_withSeed(found.hidden.data(), found.hidden.size() * sizeof(float), checksum);
    checksum = XXH3_64bits_withSeed(page.data(), page.size(), checksum);
    if (checksum != record.payload_checksum) {
      log_warn("{}: record {} skipped: wrong checksum", path.string(), record.id);
      continue;
    }
    found.tokens.assign(record.tokens.begin(), record.tokens.begin() + record.num_tokens);
    found.page = page;
    visit(found);
  }
}

Status DiskTier::start_segment() {
  if (file_ >= 0) ::close(file_);
  Segment segment;
  segment.number = next_number_++;
  segment.path = options_.folder / fmt::format("segment-{:012}.pages", segment.number);
  // Tokens and salts of tenants are in it: nobody else may read it.
  file_ = ::open(segment.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (file_ < 0) return unavailable("{}: cannot be made: {}", segment.path.string(), std::strerror(errno));
  segments_.push_back(segment);
  FileHeader header{
      .model_hash = options_.model_hash, .layout_hash = options_.layout_hash, .page_bytes = options_.page_bytes};
  header.checksum = checksum_of(header);
  return write(bytes_of(header));
}

Status DiskTier::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_, bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return unavailable("{}: {}", segments_.back().path.string(), std::strerror(errno));
    segments_.back().bytes += count;
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return {};
}

Status DiskTier::append(const DiskRecord& record) {
  if (segments_.back().bytes >= options_.max_bytes / kNumSegments) SLUICE_RETURN_IF_ERROR(start_segment());
  while (num_bytes() + options_.page_bytes > options_.max_bytes && segments_.size() > 1) {
    std::error_code ignored;
    std::filesystem::remove(segments_.front().path, ignored);
    segments_.erase(segments_.begin());
  }
  RecordHeader header{.id = record.id, .parent = record.parent, .role_key = record.role_key};
  header.num_tokens = static_cast<int32_t>(record.tokens.size());
  header.num_hidden = static_cast<int32_t>(record.hidden.size());
  header.salt_bytes = static_cast<int32_t>(record.salt.size());
  std::ranges::copy(record.tokens, header.tokens.begin());
  uint64_t checksum = XXH3_64bits(record.salt.data(), record.salt.size());
  checksum = XXH3_64bits_withSeed(record.hidden.data(), record.hidden.size() * sizeof(float), checksum);
  header.payload_checksum = XXH3_64bits_withSeed(record.page.data(), record.page.size(), checksum);
  header.checksum = checksum_of(header);
  if (header.salt_bytes > kMaxSaltBytes || header.num_hidden > kMaxHidden)
    return resource_exhausted("record {}: salt of {} bytes, hidden state of {}", record.id, header.salt_bytes,
                              header.num_hidden);
  last_id_ = record.id;
  if (segments_.back().first_id == 0) segments_.back().first_id = record.id;
  SLUICE_RETURN_IF_ERROR(write(bytes_of(header)));
  SLUICE_RETURN_IF_ERROR(write(std::as_bytes(std::span(record.salt))));
  SLUICE_RETURN_IF_ERROR(write(std::as_bytes(std::span(record.hidden))));
  return write(record.page);
}

uint64_t DiskTier::first_id() const {
  for (const Segment& segment : segments_)
    if (segment.first_id != 0) return segment.first_id;
  return last_id_ + 1;
}

int64_t DiskTier::num_bytes() const {
  int64_t bytes = 0;
  for (const Segment& segment : segments_) bytes += segment.bytes;
  return bytes;
}

}  // namespace sluice
