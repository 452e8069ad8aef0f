// How an int8 latent cache (DType::kI8) lies: one byte a value and a scale for each group of values,
//   value = scale(group) * (byte - 128)          scale and codes as quantize_activations makes them (sluice/quantize.h)
//
//   one layer's slice of a page:   | codes [64][width] bytes | scales [num_groups][64] f32 |
//   groups of an entry's width:    | latents [0, 128) | [128, 256) | ... the last may be shorter | rotated key |
//
// Bytes are excess-128 because dot products take one unsigned operand. Scales lie behind the codes so that a kernel may
// read up to 63 bytes beyond a row's end, where it multiplies by zeros: there is always something behind.
//
// Groups of 128: a latent has norm 1 a value, but the norm's weights differ by channel, so one scale for all 512 would
// let the largest channel coarsen the rest; 64 would take 2.7 % more memory. Which of them keeps answers better was not
// measured: the bundled model's latents are 64 wide. A value is off by half a step at most: its group's largest
// magnitude / 254.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sluice/kv_layout.h"

namespace sluice {

struct LatentCodes {
  static constexpr int32_t kGroup = 128;  // latents that share a scale
  static constexpr int32_t kExcess = 128;

  int32_t kv_lora_rank, rope_dim;

  int32_t width() const { return kv_lora_rank + rope_dim; }
  int32_t latent_groups() const { return (kv_lora_rank + kGroup - 1) / kGroup; }
  int32_t num_groups() const { return latent_groups() + 1; }
  // Values [begin(g), begin(g + 1)) of an entry share scale g.
  int32_t begin(int32_t group) const {
    return group > latent_groups() ? width() : std::min(group * kGroup, kv_lora_rank);
  }
  int64_t scales_offset() const { return int64_t{kPageTokens} * width(); }  // bytes into the slice
  int64_t entry_bytes() const { return width() + int64_t{4} * num_groups(); }
};

}  // namespace sluice
