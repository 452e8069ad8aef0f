// Packed weights on disk in a backend's own layout, so that the next start reads them instead of packing them again.
// Owns one file; knows neither models nor layouts: whoever opens it brings a key that stands for both. Called by
// WeightLoader from the loading thread; the team reads and hashes.
//
//   header   "SLUICEPW" | version | key                                 64 bytes
//   record   bytes | checksum                        64 bytes, then the data, padded to 64
//   ...      one for each buffer, in load order
//
// A file is written under a temporary name and renamed when it is whole. Nothing in it is believed: a header of another
// key, a record of another size, a checksum that does not fit end its use with a warning, the rest is packed as if there
// were no file, and the file is removed.
//
// Read, not mapped: a copy into anonymous memory gets huge pages, which a file's pages do not (decode streams all weights
// once a token; 4 KiB pages cost 15 % of the bandwidth), and the file's own pages stay free to go.
#pragma once

#include <cstdint>
#include <string>

#include "sluice/ops.h"
#include "sluice/status.h"

#include "model/weight_packing.h"

namespace sluice {

class PackedCache {
 public:
  // Reads `path` if it is there with this key, otherwise writes it anew.
  PackedCache(std::string path, uint64_t key);
  ~PackedCache();  // an unfinished file goes
  PackedCache(const PackedCache&) = delete;
  PackedCache& operator=(const PackedCache&) = delete;

  // Fills the next buffer of the load order; false: pack it, and hand it to add().
  bool read(Buffer& buffer, ThreadTeam& team);
  void add(const Buffer& buffer, ThreadTeam& team);
  // All buffers are there: a written file gets its name. A disk that is full costs the file, not the start.
  void finish();

  bool reading() const { return mode_ == Mode::kReading; }

 private:
  enum class Mode { kReading, kWriting, kOff };

  void give_up(const std::string& why);

  const std::string path_;
  Mode mode_ = Mode::kOff;
  int fd_ = -1;
  int64_t offset_ = 0;
};

// A number that changes whenever the backend would pack some matrix into other bytes: the hash of what it makes of a
// few values in this format, in int8 (attention takes that for quantised models) and in the wide ones.
uint64_t packed_layout(const WeightPacking& packing, WeightFormat format);

}  // namespace sluice
