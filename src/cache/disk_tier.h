// Pages that survive a restart: append-only segment files in one folder. Owns the files, their format and their bound;
// refuses to know the prefix tree, and trusts nothing it reads: a file of another model, layout or version, a torn end
// or a flipped bit is skipped with a log line. Not thread-safe: PageSaver's thread writes, reading happens before that.
//
//   segment-000007.pages
//     | file header: magic, version, model hash, layout hash, page bytes, checksum |
//     | record: header with tokens, checksum | salt | hidden | page bytes | checksum of these | record ...
//
// A record names the record of its parent page; a parent is always written before its children, so ids ascend along
// every path. When the bound is reached the oldest segment goes, and with it the paths that begin there.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sluice/kv_layout.h"
#include "sluice/status.h"
#include "sluice/types.h"

namespace sluice {

struct DiskOptions {
  std::filesystem::path folder;  // made if missing
  int64_t max_bytes = 0;         // of all segments together
  int64_t page_bytes = 0;
  uint64_t model_hash = 0;   // of weights and configuration: other weights make other rows
  uint64_t layout_hash = 0;  // of the KvLayout
};

struct DiskRecord {
  uint64_t id = 0;      // ascending, 1 or more
  uint64_t parent = 0;  // 0: the first page of a prompt
  uint64_t role_key = 0;
  std::string salt;
  std::vector<TokenId> tokens;      // [1, kPageTokens]
  std::vector<float> hidden;        // [hidden_size] or empty
  std::span<const std::byte> page;  // [page_bytes]
};

class DiskTier {
 public:
  // Called for every good record, in order of id; the record is valid during the call only.
  using Visitor = std::function<void(const DiskRecord&)>;

  static Result<std::unique_ptr<DiskTier>> open(const DiskOptions& options, const Visitor& visit);
  ~DiskTier();
  DiskTier(const DiskTier&) = delete;
  DiskTier& operator=(const DiskTier&) = delete;

  // Appends; deletes the oldest segment when the bound is reached.
  Status append(const DiskRecord& record);

  uint64_t last_id() const { return last_id_; }
  // Records below this id are gone.
  uint64_t first_id() const;
  int64_t num_bytes() const;

 private:
  struct Segment {
    std::filesystem::path path;
    uint64_t number = 0;
    uint64_t first_id = 0;  // of the records in it; 0: none yet
    int64_t bytes = 0;
  };

  explicit DiskTier(const DiskOptions& options) : options_(options) {}
  void read_segment(const std::filesystem::path& path, const Visitor& visit);
  Status start_segment();
  Status write(std::span<const std::byte> bytes);

  const DiskOptions options_;
  std::vector<Segment> segments_;  // the last one is written to
  int file_ = -1;
  uint64_t last_id_ = 0;
  uint64_t next_number_ = 1;
};

}  // namespace sluice
