// Packed weights on disk: read back as written, and never believed when anything about them is off.
#include "model/packed_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "tests/model/temp_directory.h"

namespace sluice {
namespace {

// Several chunks, a size that nothing divides, an empty one.
const std::vector<size_t> kSizes = {3'000'001, 64, 0, 1'048'576};

Buffer filled(size_t bytes, uint32_t seed) {
  Buffer buffer(bytes);
  std::mt19937 random(seed);
  for (size_t i = 0; i < bytes; ++i) buffer.data()[i] = static_cast<std::byte>(random());
  return buffer;
}

class PackedCacheFile : public testing::Test {
 protected:
  void write(uint64_t key) {
    PackedCache cache(path(), key);
    EXPECT_FALSE(cache.reading());
    for (size_t i = 0; i < kSizes.size(); ++i) {
      Buffer buffer = filled(kSizes[i], static_cast<uint32_t>(i));
      EXPECT_FALSE(cache.read(buffer, team_));
      cache.add(buffer, team_);
    }
    cache.finish();
  }

  // How many buffers come back whole before the file is given up.
  size_t count_read(uint64_t key) {
    PackedCache cache(path(), key);
    size_t count = 0;
    for (size_t i = 0; i < kSizes.size(); ++i) {
      Buffer found(kSizes[i]);
      if (found.size() > 0) std::memset(found.data(), 0xee, found.size());
      if (!cache.read(found, team_)) continue;
      const Buffer expected = filled(kSizes[i], static_cast<uint32_t>(i));
      EXPECT_TRUE(kSizes[i] == 0 || std::memcmp(found.data(), expected.data(), kSizes[i]) == 0) << i;
      ++count;
    }
    return count;
  }

  std::string path() const { return directory_.file("packed"); }
  bool exists() const { return std::filesystem::exists(path()); }

  void flip(size_t offset) const {
    std::fstream file(path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(offset));
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(offset));
    file.put(byte);
  }

  ThreadTeam team_{2};
  TempDirectory directory_;
};

TEST_F(PackedCacheFile, ComesBackAsWritten) {
  write(7);
  EXPECT_EQ(count_read(7), kSizes.size());
  EXPECT_TRUE(exists());
}

TEST_F(PackedCacheFile, OfAnotherKeyIsWrittenAnew) {
  write(7);
  EXPECT_EQ(count_read(8), 0u);
  EXPECT_EQ(count_read(7), kSizes.size()) << "what is not finished replaces nothing";
  write(8);
  EXPECT_EQ(count_read(8), kSizes.size());
}

TEST_F(PackedCacheFile, DamageEndsItsUse) {
  constexpr size_t kFirstData = 128, kSecondRecord = 128 + 3'000'064;
  for (const auto& [offset, whole] : {std::pair<size_t, size_t>{9, 0},             // version
                                      {kFirstData - 64, 0},                        // a size
                                      {kFirstData + 2'000'000, 0},                 // data of the first
                                      {kSecondRecord + 8, 1},                      // a checksum
                                      {kSecondRecord + 64 + 5, 1}}) {              // data of the second
    write(7);
    flip(offset);
    EXPECT_EQ(count_read(7), whole) << "byte " << offset;
    EXPECT_EQ(exists(), offset == 9) << "a damaged file goes, a foreign one waits for its successor";
  }
  write(7);
  std::filesystem::resize_file(path(), std::filesystem::file_size(path()) - 1);
  EXPECT_EQ(count_read(7), kSizes.size() - 1);
  EXPECT_FALSE(exists());
}

TEST_F(PackedCacheFile, OtherSizesThanAskedForEndItsUse) {
  write(7);
  PackedCache cache(path(), 7);
  Buffer other(kSizes[0] - 1);
  EXPECT_FALSE(cache.read(other, team_));
  Buffer right(kSizes[0]);
  EXPECT_FALSE(cache.read(right, team_)) << "no second chance";
}

TEST_F(PackedCacheFile, UnfinishedIsNothing) {
  {
    PackedCache cache(path(), 7);
    cache.add(filled(100, 1), team_);
  }
  EXPECT_FALSE(exists());
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(PackedCacheFile, AFolderThatIsNotThereCostsNothing) {
  PackedCache cache(directory_.file("no/such/folder"), 7);
  Buffer buffer = filled(100, 1);
  EXPECT_FALSE(cache.read(buffer, team_));
  cache.add(buffer, team_);
  cache.finish();
}

}  // namespace
}  // namespace sluice
