// Weights on their way from the checkpoint into a backend's own layout, tile by tile, so that no second copy of a
// tensor ever exists. Owns the packed bytes. Loading runs on the thread team; afterwards everything is read-only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sluice/ops.h"

#include "model/checkpoint.h"
#include "model/packed_cache.h"
#include "model/partition.h"
#include "model/weight_packing.h"

namespace sluice {

// Packed matrices of one shape, side by side in one buffer (an expert each, a head each, or just one).
class PackedMatrices {
 public:
  const Weight& operator[](size_t index) const { return weights_[index]; }
  std::span<const Weight> all() const { return weights_; }
  int64_t bytes() const { return bytes_; }
  int64_t stride() const { return bytes() / static_cast<int64_t>(weights_.size()); }  // bytes from matrix to matrix

 private:
  friend class WeightLoader;
  int64_t bytes_ = 0;
  Buffer buffer_;  // empty where the loader only measures
  std::vector<Weight> weights_;
};

// A matrix as the loader reads it: rows [row_begin, row_begin + num_rows) of [rows, cols] as f32 into out.
struct RowSource {
  int64_t rows = 0, cols = 0;
  bool wide = false;  // the checkpoint is quantised, but keeps this matrix as floats
  std::function<void(int64_t row_begin, int64_t num_rows, float* out)> read;
  std::vector<std::string> tensors;  // that the rows come from
};

// Called now and then with the bytes packed so far, from the loading thread.
using LoadProgress = std::function<void(int64_t packed_bytes)>;

// Called for each matrix with the tensors that it was packed from, from the loading thread.
using PackObserver = std::function<void(const std::vector<std::string>& tensors, const Weight& packed)>;

class WeightLoader {
 public:
  // With auto the model's format is the checkpoint's own, and what a quantised checkpoint keeps wide stays wide.
  WeightLoader(const Checkpoint& checkpoint, const WeightPacking& packing, WeightFormat wanted, OpContext& context,
               LoadProgress progress, PackObserver observer = {}, PackedCache* cache = nullptr);

  // The whole tensor, or rows [row_begin, row_begin + num_rows) of it.
  RowSource tensor(const std::string& name, int64_t rows, int64_t cols) const;
  // The rows of one tensor after those of another: gate over up.
  static RowSource stacked(RowSource first, RowSource second);
  // The columns of a tensor's rows [row_begin, row_begin + num_rows) as rows; reads them whole, so for small ones.
  RowSource transposed(const std::string& name, int64_t row_begin, int64_t num_rows, int64_t cols) const;
  RowSource slice(const std::string& name, int64_t row_begin, int64_t num_rows, int64_t cols) const;
  // A rank's rows, or its columns, of a tensor; what is padded is zeros.
  RowSource rows_of(const std::string& name, const Slice& rows, int64_t cols) const;
  RowSource columns_of(const std::string& name, int64_t rows, const Slice& columns, int64_t all_columns) const;

  // Only counts: what is packed has its shape, format and bytes, but no memory. Before the first pack().
  void measure_only() { measures_ = true; }
  bool measures() const { return measures_; }

  PackedMatrices pack(const std::vector<RowSource>& sources);  // in the model's format
  PackedMatrices pack_as(const std::vector<RowSource>& sources, WeightFormat format);
  PackedMatrices pack_exact(const std::vector<RowSource>& sources, DType on_disk);  // router: never quantised
  std::vector<float> vector(const std::string& name, int64_t size) const;           // norms, biases
  // The buffer from the cache of packed weights, where there is one; otherwise made, and kept there.
  void fill(Buffer& buffer, const std::function<void()>& make);

  const Checkpoint& checkpoint() const { return checkpoint_; }
  WeightFormat format() const { return format_; }

 private:
  // Fills the buffer of `packed`, whose matrices lie `bytes` apart.
  void pack_tiles(const std::vector<RowSource>& sources, PackedMatrices& packed, int64_t bytes);

  const Checkpoint& checkpoint_;
  const WeightPacking packing_;
  const WeightFormat format_;
  const bool as_stored_;
  OpContext& context_;
  LoadProgress progress_;
  PackObserver observer_;
  PackedCache* cache_;  // or null
  bool measures_ = false;
  int64_t packed_bytes_ = 0;
};

}  // namespace sluice
