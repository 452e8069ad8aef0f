#include "model/packed_weights.h"

#include <algorithm>
#include <cstring>

#include "sluice/quantize.h"

namespace sluice {

namespace {

// Rows of a tile: whole pack panels, and enough of them that a tile of a 2048-wide matrix is 0.5 MB, inside L2.
constexpr int64_t kTileRows = 4 * kPackRows;

}  // namespace

WeightLoader::WeightLoader(const Checkpoint& checkpoint, const WeightPacking& packing, WeightFormat wanted,
                           OpContext& context, LoadProgress progress, PackObserver observer,
                           PackedCache* cache)
    : checkpoint_(checkpoint),
      packing_(packing),
      format_(wanted == WeightFormat::kAuto ? checkpoint.native_format() : wanted),
      as_stored_(wanted == WeightFormat::kAuto && is_quantized(format_)),
      context_(context),
      progress_(std::move(progress)),
      observer_(std::move(observer)),
      cache_(cache) {}

RowSource WeightLoader::tensor(const std::string& name, int64_t rows, int64_t cols) const {
  return slice(name, 0, rows, cols);
}

RowSource WeightLoader::slice(const std::string& name, int64_t row_begin, int64_t num_rows, int64_t cols) const {
  return {num_rows, cols, as_stored_ && !checkpoint_.is_packed(name),
          [this, name, row_begin](int64_t row, int64_t count, float* out) {
            checkpoint_.read_rows(name, row_begin + row, count, out);
          },
          {name}};
}

RowSource WeightLoader::rows_of(const std::string& name, const Slice& rows, int64_t cols) const {
  RowSource source = slice(name, rows.begin, rows.size(), cols);
  if (rows.padded == rows.size()) return source;
  source.rows = rows.padded;
  source.read = [inner = std::move(source.read), size = rows.size(), cols](int64_t row, int64_t count, float* out) {
    const int64_t real = std::clamp<int64_t>(size - row, 0, count);
    if (real > 0) inner(row, real, out);
    std::fill(out + real * cols, out + count * cols, 0.0f);
  };
  return source;
}

RowSource WeightLoader::columns_of(const std::string& name, int64_t rows, const Slice& columns,
                                   int64_t all_columns) const {
  if (columns.size() == all_columns) return tensor(name, rows, all_columns);
  RowSource source = slice(name, 0, rows, columns.padded);
  source.read = [this, name, columns, all_columns](int64_t row, int64_t count, float* out) {
    checkpoint_.read_block(name, row, count, all_columns, columns.begin, columns.size(), out, columns.padded);
    for (int64_t i = 0; i < count; ++i)
      std::fill(out + i * columns.padded + columns.size(), out + (i + 1) * columns.padded, 0.0f);
  };
  return source;
}

RowSource WeightLoader::stacked(RowSource first, RowSource second) {
  SLUICE_CHECK(first.cols == second.cols, "{} != {}", first.cols, second.cols);
  const int64_t rows = first.rows + second.rows, cols = first.cols;
  const bool wide = first.wide || second.wide;
  std::vector<std::string> tensors = first.tensors;
  tensors.insert(tensors.end(), second.tensors.begin(), second.tensors.end());
  return {rows, cols, wide, [first = std::move(first), second = std::move(second)](int64_t row, int64_t count, float* out) {
            const int64_t from_first = std::clamp<int64_t>(first.rows - row, 0, count);
            if (from_first > 0) first.read(row, from_first, out);
            if (from_first < count)
              second.read(row + from_first - first.rows, count - from_first, out + from_first * first.cols);
          },
          std::move(tensors)};
}

RowSource WeightLoader::transposed(const std::string& name, int64_t row_begin, int64_t num_rows, int64_t cols) const {
  return {cols, num_rows, false, [this, name, row_begin, num_rows, cols](int64_t column, int64_t count, float* out) {
            std::vector<float> block(static_cast<size_t>(num_rows * cols));
            checkpoint_.read_rows(name, row_begin, num_rows, block.data());
            for (int64_t i = 0; i < count; ++i)
              for (int64_t r = 0; r < num_rows; ++r)
                out[i * num_rows + r] = block[static_cast<size_t>(r * cols + column + i)];
          },
          {name}};
}

PackedMatrices WeightLoader::pack(const std::vector<RowSource>& sources) {
  const bool wide = std::any_of(sources.begin(), sources.end(), [](const RowSource& source) { return source.wide; });
  return pack_as(sources, wide ? WeightFormat::kBF16 : format_);
}

PackedMatrices WeightLoader::pack_exact(const std::vector<RowSource>& sources, DType on_disk) {
  return pack_as(sources, on_disk == DType::kBF16 ? WeightFormat::kBF16 : WeightFormat::kF32);
}

void WeightLoader::fill(Buffer& buffer, const std::function<void()>& make) {
  if (cache_ && cache_->read(buffer, context_.team)) return;
  // Padding that no kernel reads goes to disk, too: no bytes of earlier owners of this memory.
  if (cache_ && buffer.size() > 0) std::memset(buffer.data(), 0, buffer.size());
  make();
  if (cache_) cache_->add(buffer, context_.team);
}

void WeightLoader::pack_tiles(const std::vector<RowSource>& sources, PackedMatrices& packed, int64_t bytes) {
  const int64_t rows = sources[0].rows, cols = sources[0].cols;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  const int64_t tile_floats = kTileRows * cols;
  auto* tile_memory = reinterpret_cast<float*>(
      context_.scratch.reserve(static_cast<size_t>(tile_floats * context_.team.size()) * sizeof(float)));
  context_.team.parallel_for(tiles * static_cast<int64_t>(sources.size()), 1,
                             [&](int64_t begin, int64_t end, int rank) {
                               float* tile = tile_memory + rank * tile_floats;
                               for (int64_t unit = begin; unit < end; ++unit) {
                                 const auto source = static_cast<size_t>(unit / tiles);
                                 const int64_t row = unit % tiles * kTileRows;
                                 const int64_t count = std::min(kTileRows, rows - row);
                                 sources[source].read(row, count, tile);
                                 packing_.pack(packed.weights_[source], row, count, tile,
                                               packed.buffer_.data() + static_cast<int64_t>(source) * bytes);
                               }
                             });
}

PackedMatrices WeightLoader::pack_as(const std::vector<RowSource>& sources, WeightFormat format) {
  PackedMatrices packed;
  const int64_t rows = sources[0].rows, cols = sources[0].cols;
  format = storage_format(format, cols);
  const int64_t bytes = (packing_.packed_bytes(format, rows, cols) + 63) / 64 * 64;
  packed.bytes_ = bytes * static_cast<int64_t>(sources.size());
  if (measures_) {
    packed.weights_.assign(sources.size(), {format, rows, cols, nullptr});
    return packed;
  }
  packed.buffer_ = Buffer(static_cast<size_t>(packed.bytes_));
  for (size_t i = 0; i < sources.size(); ++i) {
    SLUICE_CHECK(sources[i].rows == rows && sources[i].cols == cols, "matrices of one pack differ in shape");
    packed.weights_.push_back({format, rows, cols, packed.buffer_.data() + static_cast<int64_t>(i) * bytes});
    if (observer_) observer_(sources[i].tensors, packed.weights_.back());
  }
  fill(packed.buffer_, [&] { pack_tiles(sources, packed, bytes); });
  packed_bytes_ += packed.bytes();
  if (progress_) progress_(packed_bytes_);
  return packed;
}

std::vector<float> WeightLoader::vector(const std::string& name, int64_t size) const {
  std::vector<float> values(static_cast<size_t>(size));
  checkpoint_.read_rows(name, 0, size, values.data());
  return values;
}

}  // namespace sluice
