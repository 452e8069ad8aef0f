#include "model/quantize_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "sluice/quantize.h"

#include "model/quantize_plan.h"
#include "model/safetensors.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

// Rows that a thread takes at once: a multiple of the 8 rows whose zero points share a word.
constexpr int64_t kTileRows = 16;
// Weights between two writes: 4 MiB of BF16 or 1 MiB of codes, enough for the disk, little for memory.
constexpr int64_t kBlockWeights = int64_t{1} << 21;
// Rounding to 4 bits misses by at most 0.37 (a group of one large weight and 31 just under half a step), compensation may
// move weights further for the sake of products, and a wrong order of nibbles misses by 1.4.
constexpr double kMaxError = 1.0;

struct ErrorSum {
  double missed = 0;  // sum of (w - w')^2
  double total = 0;   // sum of w^2
};

class CheckpointQuantizer {
 public:
  CheckpointQuantizer(const Checkpoint& source, const std::string& output, ThreadTeam& team,
                      const QuantizeOptions& options, std::vector<PlannedShard> shards);

  Result<QuantizeReport> run();

 private:
  Status refuse_foreign_files() const;
  Status write_shard(const PlannedShard& planned, Shard& shard);
  Status write_wide(const PlannedTensor& tensor, Shard& shard);
  Status write_quantized(const PlannedTensor& tensor, Shard& shard);
  Status verify_shard(const PlannedShard& planned, const std::string& path);
  Status verify_tensor(const PlannedTensor& tensor, const SafetensorsFile& file);
  void advance(int64_t weights);

  // Calls body(row, count, values [count, cols]) for tiles of rows [begin, end), on all threads.
  template <typename Body>
  void for_tiles(const PlannedTensor& tensor, int64_t begin, int64_t end, const Body& body);

  const Checkpoint& source_;
  const std::string output_;
  ThreadTeam& team_;
  const QuantizeOptions& options_;
  const std::vector<PlannedShard> shards_;
  std::vector<std::vector<float>> tiles_;  // a thread each
  QuantizeReport report_;
  ErrorSum errors_;
  int64_t done_ = 0, total_ = 0;  // weights, written and verified
};

int64_t rows_of(const PlannedTensor& tensor) { return tensor.spec.shape[0]; }
int64_t cols_of(const PlannedTensor& tensor) { return tensor.spec.shape.rank == 2 ? tensor.spec.shape[1] : 1; }

// Rows of one write.
int64_t block_rows(const PlannedTensor& tensor) {
  return std::max(kTileRows, kBlockWeights / cols_of(tensor) / kTileRows * kTileRows);
}

std::span<const std::byte> bytes_of(const auto& values, size_t count) {
  return {reinterpret_cast<const std::byte*>(values.data()), count * sizeof(values[0])};
}

CheckpointQuantizer::CheckpointQuantizer(const Checkpoint& source, const std::string& output, ThreadTeam& team,
                                         const QuantizeOptions& options, std::vector<PlannedShard> shards)
    : source_(source), output_(output), team_(team), options_(options), shards_(std::move(shards)) {
  tiles_.resize(static_cast<size_t>(team.size()));
  int64_t elements = 0;
  for (const PlannedShard& shard : shards_) {
    for (const PlannedTensor& tensor : shard) {
      elements += tensor.spec.shape.num_elements();
      if (!is_quantized(tensor.format)) continue;
      report_.quantized_bytes_in += tensor.spec.shape.num_elements() * 2;
      for (const ShardTensor& part : tensor.parts()) report_.quantized_bytes_out += part.bytes();
    }
  }
  total_ = 2 * elements;
  report_.bytes_in = source.file_bytes() > 0 ? source.file_bytes() : elements * 2;
}

// Another model's shards, or those of another plan, would be read as part of this one, or instead of it.
Status CheckpointQuantizer::refuse_foreign_files() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output_, error)) {
    const std::string file = entry.path().filename().string();
    if (entry.path().extension() != ".safetensors" && file != "model.safetensors.index.json") continue;
    bool ours = file == "model.safetensors.index.json" && shards_.size() > 1;
    for (size_t i = 0; i < shards_.size(); ++i) ours = ours || file == shard_file(i, shards_.size());
    if (!ours)
      return failed_precondition("{}: expected an empty directory or an unfinished run with the same options, found {}",
                                 output_, file);
  }
  return {};
}

Result<QuantizeReport> CheckpointQuantizer::run() {
  SLUICE_RETURN_IF_ERROR(refuse_foreign_files());
  for (size_t i = 0; i < shards_.size(); ++i) {
    std::vector<ShardTensor> parts;
    for (const PlannedTensor& tensor : shards_[i])
      for (ShardTensor& part : tensor.parts()) parts.push_back(std::move(part));
    Shard shard(output_ + "/" + shard_file(i, shards_.size()), std::move(parts), options_.made_from);
    if (shard.is_complete()) {
      ++report_.shards_kept;
      for (const PlannedTensor& tensor : shards_[i]) advance(tensor.spec.shape.num_elements());
    } else {
      SLUICE_RETURN_IF_ERROR(write_shard(shards_[i], shard));
    }
    SLUICE_RETURN_IF_ERROR(verify_shard(shards_[i], shard.path()));
    ++report_.shards;
    report_.bytes_out += shard.file_bytes();
  }
  report_.relative_error = errors_.total > 0 ? std::sqrt(errors_.missed / errors_.total) : 0;
  return report_;
}

void CheckpointQuantizer::advance(int64_t weights) {
  done_ += weights;
  if (options_.progress) options_.progress(done_, total_);
}

template <typename Body>
void CheckpointQuantizer::for_tiles(const PlannedTensor& tensor, int64_t begin, int64_t end, const Body& body) {
  const int64_t cols = cols_of(tensor);
  for (std::vector<float>& tile : tiles_) tile.resize(std::max(tile.size(), static_cast<size_t>(kTileRows * cols)));
  team_.parallel_for((end - begin + kTileRows - 1) / kTileRows, 1, [&](int64_t first, int64_t last, int rank) {
    float* values = tiles_[static_cast<size_t>(rank)].data();
    for (int64_t index = first; index < last; ++index) {
      const int64_t row = begin + index * kTileRows;
      const int64_t count = std::min(kTileRows, end - row);
      source_.read_rows(tensor.spec.name, row, count, values);
      body(row, count, values);
    }
  });
}

Status CheckpointQuantizer::write_shard(const PlannedShard& planned, Shard& shard) {
  std::error_code ignored;  // there is none as a rule
  fs::remove(output_ + "/config.json", ignored);
  SLUICE_RETURN_IF_ERROR(shard.create());
  for (const PlannedTensor& tensor : planned)
    SLUICE_RETURN_IF_ERROR(is_quantized(tensor.format) ? write_quantized(tensor, shard) : write_wide(tensor, shard));
  return shard.finish();
}

Status CheckpointQuantizer::write_wide(const PlannedTensor& tensor, Shard& shard) {
  const int64_t rows = rows_of(tensor), cols = cols_of(tensor), step = block_rows(tensor);
  const size_t element = tensor.format == WeightFormat::kF32 ? 4 : 2;
  std::vector<std::byte> block(static_cast<size_t>(std::min(rows, step) * cols) * element);
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step);
    for_tiles(tensor, begin, end, [&](int64_t row, int64_t count, const float* values) {
      std::byte* out = block.data() + (row - begin) * cols * static_cast<int64_t>(element);
      if (element == 4) {
        std::memcpy(out, values, static_cast<size_t>(count * cols) * element);
      } else {
        std::transform(values, values + count * cols, reinterpret_cast<uint16_t*>(out), f32_to_bf16);
      }
    });
    const size_t offset = static_cast<size_t>(begin * cols) * element;
    const size_t bytes = static_cast<size_t>((end - begin) * cols) * element;
    SLUICE_RETURN_IF_ERROR(
        shard.write(tensor.spec.name, static_cast<int64_t>(offset), std::span(block).first(bytes)));
    advance((end - begin) * cols);
  }
  return {};
}

// A row's codes and grids.
struct QuantizedRow {
  std::vector<int8_t> codes;     // [cols]
  std::vector<GroupGrid> grids;  // [groups]
};

// `values` [cols] are destroyed; `factor` may be empty.
QuantizedRow quantize_row(WeightFormat format, float* values, int64_t cols, const std::vector<float>& factor) {
  const int32_t group = group_size(format, cols);
  QuantizedRow row{std::vector<int8_t>(static_cast<size_t>(cols)),
                   std::vector<GroupGrid>(static_cast<size_t>(cols / group))};
  if (!factor.empty()) {
    quantize_row_compensated(format, values, cols, factor.data(), row.codes.data(), row.grids.data());
    return row;
  }
  quantize_groups(format, values, group, cols / group, row.codes.data(), row.grids.data());
  return row;
}

// Row `index` as files hold it: words of codes, the lower bits first (little-endian bytes), each the excess 8 or 128
// above our codes; a scale a group; zero points as nibbles of words that 8 rows share.
void store_row(WeightFormat format, const QuantizedRow& row, int64_t index, uint8_t* packed, uint16_t* scales,
               uint32_t* zeros) {
  const bool narrow = code_bits(format) == 4;
  for (size_t g = 0; g < row.grids.size(); ++g) {
    scales[g] = f32_to_bf16(row.grids[g].scale);
    if (has_zero_points(format)) zeros[g] |= static_cast<uint32_t>(row.grids[g].zero + 8) << (4 * (index % 8));
  }
  for (size_t k = 0; k < row.codes.size(); ++k) {
    const auto code = static_cast<uint8_t>(row.codes[k] + (narrow ? 8 : 128));
    if (!narrow) {
      packed[k] = code;
    } else {
      packed[k / 2] = k % 2 == 0 ? code : static_cast<uint8_t>(packed[k / 2] | code << 4);
    }
  }
}

Status CheckpointQuantizer::write_quantized(const PlannedTensor& tensor, Shard& shard) {
  const WeightFormat format = tensor.format;
  const int64_t rows = rows_of(tensor), cols = cols_of(tensor), step = block_rows(tensor);
  const int64_t groups = cols / group_size(format, cols), row_bytes = cols * code_bits(format) / 8;
  const std::string module = tensor.module();
  const std::vector<int64_t> shape = {rows, cols};
  const std::vector<float> factor = options_.factor ? options_.factor(tensor.spec) : std::vector<float>();
  SLUICE_RETURN_IF_ERROR(shard.write(module + ".weight_shape", 0, bytes_of(shape, shape.size())));
  std::vector<uint8_t> packed(static_cast<size_t>(std::min(rows, step) * row_bytes));
  std::vector<uint16_t> scales(static_cast<size_t>(std::min(rows, step) * groups));
  std::vector<uint32_t> zeros(static_cast<size_t>((std::min(rows, step) + 7) / 8 * groups));
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t end = std::min(rows, begin + step);
    std::fill(zeros.begin(), zeros.end(), 0);
    for_tiles(tensor, begin, end, [&](int64_t row, int64_t count, float* values) {
      for (int64_t i = 0; i < count; ++i) {
        const int64_t r = row - begin + i;  // in the block
        store_row(format, quantize_row(format, values + i * cols, cols, factor), r, packed.data() + r * row_bytes,
                  scales.data() + r * groups, zeros.data() + r / 8 * groups);
      }
    });
    const auto count = static_cast<size_t>(end - begin);
    SLUICE_RETURN_IF_ERROR(shard.write(module + ".weight_packed", begin * row_bytes,
                                       bytes_of(packed, count * static_cast<size_t>(row_bytes))));
    SLUICE_RETURN_IF_ERROR(shard.write(module + ".weight_scale", begin * groups * 2,
                                       bytes_of(scales, count * static_cast<size_t>(groups))));
    if (has_zero_points(format))
      SLUICE_RETURN_IF_ERROR(shard.write(module + ".weight_zero_point", begin / 8 * groups * 4,
                                         bytes_of(zeros, (count + 7) / 8 * static_cast<size_t>(groups))));
    advance((end - begin) * cols);
  }
  return {};
}

Status CheckpointQuantizer::verify_shard(const PlannedShard& planned, const std::string& path) {
  SLUICE_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::open(path));
  for (const PlannedTensor& tensor : planned) SLUICE_RETURN_IF_ERROR(verify_tensor(tensor, file));
  return {};
}

// Reads the tensor as the loader will, and the source once more.
Status CheckpointQuantizer::verify_tensor(const PlannedTensor& tensor, const SafetensorsFile& file) {
  const int64_t rows = rows_of(tensor), cols = cols_of(tensor);
  const bool quantized = is_quantized(tensor.format);
  const PackedScheme scheme = written_scheme(quantized ? tensor.format : WeightFormat::kInt8);
  const TensorLookup find = [&](const std::string& name) -> FoundTensor { return {file.find(name), &file.path()}; };
  if (quantized) SLUICE_RETURN_IF_ERROR(expect_packed(scheme, tensor.spec.name, tensor.spec.shape, find));
  std::vector<ErrorSum> sums(static_cast<size_t>((rows + kTileRows - 1) / kTileRows));
  for_tiles(tensor, 0, rows, [&](int64_t row, int64_t count, const float* values) {
    std::vector<float> found(static_cast<size_t>(count * cols));
    if (quantized) {
      read_packed_rows(scheme, tensor.spec.name, row, count, find, found.data());
    } else {
      widen_to_f32(*file.find(tensor.spec.name), row * cols, count * cols, found.data());
    }
    ErrorSum& sum = sums[static_cast<size_t>(row / kTileRows)];
    for (int64_t i = 0; i < count * cols; ++i) {
      const bool rounded = tensor.format == WeightFormat::kBF16;
      const double meant = rounded ? bf16_to_f32(f32_to_bf16(values[i])) : values[i];
      const double miss = meant - found[static_cast<size_t>(i)];
      sum.missed += miss * miss;
      sum.total += meant * meant;
    }
  });
  ErrorSum whole;
  for (const ErrorSum& sum : sums) {
    whole.missed += sum.missed;
    whole.total += sum.total;
  }
  const double bound = quantized ? kMaxError : 0;
  if (!(whole.missed <= bound * bound * whole.total))
    return data_loss("{}: tensor \"{}\": expected a relative error of at most {}, found {}", file.path(),
                     tensor.spec.name, bound, std::sqrt(whole.missed / whole.total));
  if (quantized) {
    errors_.missed += whole.missed;
    errors_.total += whole.total;
  }
  advance(rows * cols);
  return {};
}

// Written under another name first, so that it is there as a whole or not at all.
Status write_file(const std::string& path, const std::string& text) {
  const std::string part = path + ".part";
  {
    std::ofstream file(part, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    if (!file) return failed_precondition("{}: cannot be written", part);
  }
  std::error_code error;
  fs::rename(part, path, error);
  return error ? failed_precondition("{}: cannot be renamed: {}", part, error.message()) : Status();
}

}  // namespace

Result<QuantizeReport> quantize_checkpoint(const Checkpoint& source, const ModelConfig& config,
                                           const std::string& config_json, const std::string& output, ThreadTeam& team,
                                           const QuantizeOptions& options) {
  if (!is_quantized(options.weights))
    return invalid_argument("weights: expected int8 or one of the int4 formats, found {}", name(options.weights));
  if (config.packed)
    return failed_precondition("the checkpoint is quantised already; start from its BF16, F16, F32 or FP8 original");
  if (config.hybrid)
    return failed_precondition("config.json: model_type: {} is quantised while it is loaded (weights), not written",
                               config.model_type);
  for (const TensorSpec& spec : required_tensors(config))
    SLUICE_RETURN_IF_ERROR(source.expect(spec.name, spec.shape));
  std::error_code error;
  fs::create_directories(output, error);
  if (error) return failed_precondition("{}: cannot be created: {}", output, error.message());
  const std::vector<PlannedShard> shards =
      plan_shards(source, config, options.weights, options.keep_head, options.shard_bytes);
  SLUICE_ASSIGN_OR_RETURN(const std::string new_config, quantized_config(config_json, shards, options.weights));
  SLUICE_ASSIGN_OR_RETURN(const QuantizeReport report,
                          CheckpointQuantizer(source, output, team, options, shards).run());
  if (shards.size() > 1) SLUICE_RETURN_IF_ERROR(write_file(output + "/model.safetensors.index.json", shard_index(shards)));
  SLUICE_RETURN_IF_ERROR(write_file(output + "/config.json", new_config));
  return report;
}

}  // namespace sluice
