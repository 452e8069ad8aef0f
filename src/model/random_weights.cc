// Two hashes of different cost. A 64-bit one, once per block of 256 elements, mixes (seed, name, block). A 32-bit one,
// per element, mixes the place in the block with the two halves of the block's key: 32-bit lanes are what a compiler
// vectorises on every machine (64-bit multiplication it does not). The sum of the hash's four bytes is the value: an
// Irwin-Hall distribution of 1021 levels, within 3.5 sigma. Integers all the way to one multiplication, so that no
// machine rounds differently.
#include "model/random_weights.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace sluice {

namespace {

// Small against a row of a real matrix, large against the cost of its key (about 10 values' worth).
constexpr int64_t kBlock = 256;

// The sum of four bytes has mean 510 and variance 4 * (256^2 - 1) / 12 = 21845.
constexpr int32_t kByteSumMean = 510;
constexpr float kScale = kRandomWeightSigma / 147.80054f;

constexpr uint64_t mix64(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;  // odd, half of its bits set
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

uint64_t tensor_key(uint64_t seed, std::string_view tensor) {
  uint64_t key = mix64(seed + 0x9e3779b97f4a7c15u);
  for (size_t i = 0; i < tensor.size(); i += 8) {
    uint64_t word = 0;  // bytes in file order, whatever the machine's
    for (size_t k = i; k < std::min(i + 8, tensor.size()); ++k)
      word |= static_cast<uint64_t>(static_cast<uint8_t>(tensor[k])) << (8 * (k - i));
    key = mix64(key ^ word) + 0x9e3779b97f4a7c15u;
  }
  return mix64(key ^ tensor.size());
}

// All kBlock values of a block. A constant number of iterations without calls or branches: vectorised at -O2.
void fill_block(uint64_t block_key, float offset, float* __restrict out) {  // out: [kBlock]
  const uint32_t low = static_cast<uint32_t>(block_key), high = static_cast<uint32_t>(block_key >> 32);
  for (uint32_t i = 0; i < kBlock; ++i) {
    // Shifts and multipliers from hash-prospector's public search for 32-bit functions of low bias; `high` in between
    // keeps blocks whose low halves agree apart.
    uint32_t x = i * 0x9e3779b1u + low;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x ^= high;
    x = (x ^ (x >> 15)) * 0x735a2d97u;
    x ^= x >> 15;
    const uint32_t pairs = (x & 0x00ff00ffu) + ((x >> 8) & 0x00ff00ffu);
    const int32_t sum = static_cast<int32_t>((pairs & 0xffffu) + (pairs >> 16));
    out[i] = offset + static_cast<float>(sum - kByteSumMean) * kScale;
  }
}

}  // namespace

// A start and a step that does not come round within `count` numbers.
void random_choice(uint64_t seed, std::string_view tensor, int64_t row, int32_t end, int32_t count, int32_t* out) {
  const uint64_t bits = mix64(tensor_key(seed, tensor) + static_cast<uint64_t>(row) * 0x9e3779b97f4a7c15u);
  const auto start = static_cast<int64_t>((bits >> 32) % static_cast<uint64_t>(end));
  const int64_t longest = count > 1 ? (end - 1) / (count - 1) : 1;
  const auto step =
      1 + static_cast<int64_t>((bits & 0xffffffffu) % static_cast<uint64_t>(std::max<int64_t>(1, longest)));
  for (int32_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>((start + i * step) % end);
}

void random_values(uint64_t seed, std::string_view tensor, int64_t begin, int64_t count, float* out) {
  if (count == 0) return;  // `out` may be null then
  const uint64_t key = tensor_key(seed, tensor);
  const float offset = tensor.ends_with("norm.weight") ? 1.0f : 0.0f;
  const int64_t end = begin + count;
  std::array<float, kBlock> scratch;
  for (int64_t block = begin / kBlock; block * kBlock < end; ++block) {
    const int64_t first = std::max(begin, block * kBlock), last = std::min(end, (block + 1) * kBlock);
    const uint64_t block_key = mix64(key + static_cast<uint64_t>(block) * 0x9e3779b97f4a7c15u);
    float* values = out + (first - begin);
    if (last - first == kBlock) {
      fill_block(block_key, offset, values);
    } else {  // an end that is no whole block
      fill_block(block_key, offset, scratch.data());
      std::memcpy(values, scratch.data() + (first - block * kBlock), static_cast<size_t>(last - first) * sizeof(float));
    }
  }
}

}  // namespace sluice
