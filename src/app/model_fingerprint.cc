#include "app/model_fingerprint.h"

#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <vector>

namespace sluice {

namespace {

namespace fs = std::filesystem;

// 64 pieces of 256 KiB: 16 MiB of a file, read in milliseconds; a fine-tuned checkpoint differs nearly everywhere.
constexpr int64_t kPieces = 64;
constexpr int64_t kPieceBytes = 256 << 10;

uint64_t hash_text(const std::string& text, uint64_t seed) {
  return XXH3_64bits_withSeed(text.data(), text.size(), seed);
}

Result<uint64_t> hash_file(const fs::path& path, uint64_t seed) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return not_found("{}: cannot be read", path.string());
  const auto size = static_cast<int64_t>(fs::file_size(path));
  uint64_t hash = hash_text(fmt::format("{} {}", path.filename().string(), size), seed);
  std::vector<char> piece(kPieceBytes);
  const int64_t step = std::max<int64_t>(kPieceBytes, (size - kPieceBytes) / (kPieces - 1));
  for (int64_t offset = 0; offset < size; offset += step) {
    file.clear();
    file.seekg(offset);
    file.read(piece.data(), kPieceBytes);
    hash = XXH3_64bits_withSeed(piece.data(), static_cast<size_t>(file.gcount()), hash);
  }
  return hash;
}

}  // namespace

Result<uint64_t> model_fingerprint(const std::string& directory, const std::string& weights,
                                   std::optional<uint64_t> random_seed) {
  std::vector<fs::path> files{fs::path(directory) / "config.json"};
  uint64_t hash = hash_text(weights, 1);
  if (random_seed) {
    hash = hash_text(fmt::format("random bf16 {}", *random_seed), hash);
  } else {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(directory, error))
      if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  for (const fs::path& path : files) {
    SLUICE_ASSIGN_OR_RETURN(hash, hash_file(path, hash));
  }
  return hash;
}

uint64_t layout_fingerprint(const KvLayout& layout, const std::string& cache_dtype) {
  std::string text = fmt::format("{} {}", cache_dtype, kPageTokens);
  for (const CacheGroup& group : layout.groups)
    text += fmt::format(" {} {} {} {}", group.name, group.layers.size(), group.bytes_per_entry, group.tokens_per_entry);
  return hash_text(text, 2);
}

}  // namespace sluice
