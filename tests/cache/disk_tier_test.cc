#include "cache/disk_tier.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

namespace sluice {
namespace {

constexpr int64_t kPageBytes = 1000;

class DiskTierTest : public ::testing::Test {
 protected:
  DiskTierTest() {
    std::string name = ::testing::TempDir() + "sluice-disk-XXXXXX";
    options_.folder = ::mkdtemp(name.data());
    options_.max_bytes = 1 << 20;
    options_.page_bytes = kPageBytes;
    options_.model_hash = 11;
    options_.layout_hash = 22;
  }
  ~DiskTierTest() override { std::filesystem::remove_all(options_.folder); }

  struct Found {
    uint64_t id, parent;
    std::string salt;
    std::vector<TokenId> tokens;
    std::vector<float> hidden;
    std::byte first;
  };

  std::unique_ptr<DiskTier> open() {
    found_.clear();
    auto tier = DiskTier::open(options_, [this](const DiskRecord& record) {
      found_.push_back({record.id, record.parent, record.salt, record.tokens, record.hidden, record.page[0]});
      EXPECT_EQ(std::ssize(record.page), kPageBytes);
    });
    EXPECT_TRUE(tier.ok()) << tier.status().to_string();
    return std::move(tier).value();
  }

  static void append(DiskTier& tier, uint64_t id) {
    const std::vector<std::byte> page(kPageBytes, static_cast<std::byte>(id));
    DiskRecord record{.id = id, .parent = id - 1, .role_key = 5};
    record.salt = "tenant";
    record.tokens = {static_cast<TokenId>(id), 7};
    record.hidden = {1.5f, static_cast<float>(id)};
    record.page = page;
    const Status status = tier.append(record);
    EXPECT_TRUE(status.ok()) << status.to_string();
  }

  void append_three() {
    const auto tier = open();
    for (const uint64_t id : {1u, 2u, 3u}) append(*tier, id);
  }

  std::filesystem::path first_file() const {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(options_.folder)) paths.push_back(entry.path());
    return *std::ranges::min_element(paths);
  }

  void flip_byte(int64_t offset) {
    std::fstream file(first_file(), std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(offset);
    const char byte = static_cast<char>(file.get() ^ 0x40);
    file.seekp(offset);
    file.put(byte);
  }

  DiskOptions options_;
  std::vector<Found> found_;
};

TEST_F(DiskTierTest, FindsAfterARestartWhatWasWritten) {
  append_three();
  const auto tier = open();
  ASSERT_EQ(found_.size(), 3u);
  EXPECT_EQ(found_[1].id, 2u);
  EXPECT_EQ(found_[1].parent, 1u);
  EXPECT_EQ(found_[1].salt, "tenant");
  EXPECT_EQ(found_[1].tokens, (std::vector<TokenId>{2, 7}));
  EXPECT_EQ(found_[1].hidden, (std::vector<float>{1.5f, 2.0f}));
  EXPECT_EQ(found_[1].first, std::byte{2});
  EXPECT_EQ(tier->last_id(), 3u);
  append(*tier, 4);
  open();
  EXPECT_EQ(found_.size(), 4u);
}

TEST_F(DiskTierTest, SkipsWhatIsOfAnotherModelOrLayout) {
  append_three();
  options_.model_hash = 12;
  open();
  EXPECT_TRUE(found_.empty());
  options_.model_hash = 11;
  options_.layout_hash = 23;
  open();
  EXPECT_TRUE(found_.empty());
}

TEST_F(DiskTierTest, SkipsATornEnd) {
  append_three();
  std::filesystem::resize_file(first_file(), std::filesystem::file_size(first_file()) - 1);
  open();
  EXPECT_EQ(found_.size(), 2u);
}

// No single flipped bit anywhere in the file may bring back a record that was not written like that.
TEST_F(DiskTierTest, AFlippedBitIsNeverTrusted) {
  append_three();
  const auto size = static_cast<int64_t>(std::filesystem::file_size(first_file()));
  for (int64_t offset = 0; offset < size; offset += 37) {
    flip_byte(offset);
    open();
    EXPECT_LT(found_.size(), 3u) << "byte " << offset;
    for (const Found& found : found_) {
      EXPECT_EQ(found.first, static_cast<std::byte>(found.id));
      EXPECT_EQ(found.tokens[0], static_cast<TokenId>(found.id));
    }
    flip_byte(offset);
  }
  open();
  EXPECT_EQ(found_.size(), 3u);
}

TEST_F(DiskTierTest, StaysWithinItsBound) {
  options_.max_bytes = 20'000;
  {
    const auto tier = open();
    for (uint64_t id = 1; id <= 100; ++id) {
      append(*tier, id);
      EXPECT_LE(tier->num_bytes(), options_.max_bytes);
    }
    EXPECT_GT(tier->first_id(), 80u);
    EXPECT_LT(tier->first_id(), 95u);
  }
  open();
  EXPECT_EQ(found_.back().id, 100u);
}

TEST_F(DiskTierTest, AFolderThatCannotBeMadeIsAnError) {
  options_.folder = "/proc/nowhere";
  EXPECT_EQ(DiskTier::open(options_, [](const DiskRecord&) {}).status().code(), StatusCode::kUnavailable);
}

}  // namespace
}  // namespace sluice
