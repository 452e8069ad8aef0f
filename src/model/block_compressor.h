// Makes one cache entry of each block of positions (CompressArgs has the formula): DeepSeek-V4's entries for 4 and for
// 128 positions, and its indexer's keys. Owns one compressor's weights.
#pragma once

#include <string>
#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/config.h"
#include "model/packed_weights.h"

namespace sluice {

class BlockCompressor {
 public:
  // `prefix` ends with "compressor."; `dim` wide entries of `ratio` positions; places of its groups in the cache
  // layout, `slot` counting within them.
  struct Shape {
    int32_t ratio = 0, dim = 0;
    size_t entry_group = 0, state_group = 0;
    int64_t slot = 0;
  };
  BlockCompressor(const ModelConfig& config, const std::string& prefix, const Shape& shape, WeightLoader& loader);

  // Enters the rows of `spans`; `projected` [rows, 2, series, dim] is scratch, cos_sin [rows, rope] the angles of the
  // first position of each row's block.
  void write(const KvPages& kv, std::span<const SequenceSpan> spans, int64_t rows, const float* normed,
             const float* cos_sin, Activations<float>& projected, const Backend& backend, OpContext& context) const;

  CompressedCache cache_of(const KvPages& kv) const;
  static int64_t projected_width(int32_t ratio, int32_t dim) { return int64_t{2} * series_of(ratio) * dim; }
  static int32_t series_of(int32_t ratio) { return ratio == kSelectedRatio ? 2 : 1; }  // blocks overlap

  int64_t weight_bytes() const { return project_.bytes(); }

 private:
  const ModelConfig& config_;
  const Shape shape_;
  PackedMatrices project_;   // [2 * series * dim, hidden]: keys over gates
  std::vector<float> ape_;   // [ratio, series, dim]
  std::vector<float> norm_;  // [dim]
};

}  // namespace sluice
