#include "model/checkpoint.h"

#include <cstring>
#include <filesystem>
#include <optional>
#include <unordered_map>
#include <utility>

#include "sluice/log.h"
#include "sluice/quantize.h"

#include "model/json_fields.h"
#include "model/power_scales.h"
#include "model/random_weights.h"
#include "model/safetensors.h"

namespace sluice {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;  // DeepSeek-V3's 90,000 tensors take 9 MiB

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kShortEmbedding = "embed.weight";  // V4
constexpr const char* kHead = "lm_head.weight";

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF8E4M3;
}

// Shards lie beside the index; anything that could lead elsewhere is refused.
bool is_plain_file_name(const std::string& file) {
  return !file.empty() && file != "." && file != ".." &&
         file.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

}  // namespace

struct Checkpoint::Impl {
  // Where a tensor lies. Random tensors have a shape and dtype F32, but neither file nor data.
  struct Entry {
    const SafetensorsFile* file = nullptr;
    TensorView view;
  };

  std::string directory;
  int64_t block_rows = 0;  // of one FP8 scale; 0: the config declares no FP8
  int64_t block_cols = 0;
  bool short_scale_names = false;  // X.scale instead of X.weight_scale_inv (V4)
  bool tied = false;
  std::optional<PackedScheme> packed;
  std::optional<uint64_t> seed;
  int32_t num_experts = 0;  // what random ids choose from
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::unordered_map<std::string, Entry> entries;

  const std::string& resolve(const std::string& name) const {
    static const std::string embedding = kEmbedding;
    return tied && name == kHead ? embedding : name;
  }

  const Entry* find(const std::string& name) const {
    const auto found = entries.find(resolve(name));
    return found == entries.end() ? nullptr : &found->second;
  }

  TensorLookup lookup() const {
    return [this](const std::string& name) -> FoundTensor {
      const auto found = entries.find(name);
      if (found == entries.end()) return {};
      return {&found->second.view, &found->second.file->path()};
    };
  }

  bool is_packed(const std::string& name) const {
    return packed && find(name) == nullptr && has_packed(*packed, resolve(name), lookup());
  }

  // Precondition: has(name).
  const Entry& at(const std::string& name) const {
    const Entry* entry = find(name);
    SLUICE_CHECK(entry != nullptr, "no tensor {}", name);
    return *entry;
  }

  Shape scale_shape(const Shape& weights) const {
    return {ceil_divide(weights[0], block_rows), ceil_divide(weights[1], block_cols)};
  }

  Result<const SafetensorsFile*> add_file(const std::string& file);
  Status read_index();
  // The tensor that holds the scales of X.weight.
  std::string scales_of(const std::string& name) const {
    const std::string& real = resolve(name);
    return short_scale_names ? real.substr(0, real.rfind('.')) + ".scale" : real + "_scale_inv";
  }

  Status expect_scales(const std::string& name, const Entry& weights) const;
  Status expect_fp4(const TensorSpec& spec, const Entry& weights) const;
  Status expect_scale_tensor(const std::string& name, const std::string& path, const Shape& expected) const;
  void apply_scales(const TensorView& scales, int64_t rows_each, int64_t cols_each, int64_t row_begin,
                    int64_t num_rows, int64_t cols, float* values) const;
};

Result<const SafetensorsFile*> Checkpoint::Impl::add_file(const std::string& file) {
  SLUICE_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::open(directory + "/" + file));
  files.push_back(std::make_unique<SafetensorsFile>(std::move(opened)));
  return files.back().get();
}

// {"metadata": {"total_size": bytes}, "weight_map": {"tensor": "file"}}: only what the map names is visible.
Status Checkpoint::Impl::read_index() {
  const std::string path = directory + "/" + kIndexFile;
  SLUICE_ASSIGN_OR_RETURN(const std::string text, read_small_file(path, kMaxIndexBytes));
  SLUICE_ASSIGN_OR_RETURN(const nlohmann::json object, parse_json_object(text, path));
  JsonFields fields(object, path);
  if (!fields.has("weight_map")) fields.refuse(StatusCode::kInvalidArgument, "weight_map", "an object");
  const nlohmann::json* weight_map = fields.object_or_null("weight_map");
  SLUICE_RETURN_IF_ERROR(fields.status());
  std::unordered_map<std::string, const SafetensorsFile*> shards;
  int64_t total_bytes = 0;
  for (const auto& [tensor, file] : weight_map->items()) {
    const std::string where = fmt::format("{}: weight_map: {}", path, in_quotes(tensor));
    if (!file.is_string() || !is_plain_file_name(file.get_ref<const std::string&>()))
      return invalid_argument("{}: expected the name of a file beside the index, found {}", where,
                              file.is_string() ? in_quotes(file.get_ref<const std::string&>()) : file.type_name());
    const std::string& shard = file.get_ref<const std::string&>();
    if (!shards.contains(shard)) {
      Result<const SafetensorsFile*> added = add_file(shard);
      if (!added.ok()) return added.status().with_context(where);
      shards[shard] = *added;
    }
    const TensorView* view = shards[shard]->find(tensor);
    if (view == nullptr)
      return data_loss("{}: expected in {}, found no such tensor there", where, shards[shard]->path());
    entries[tensor] = {shards[shard], *view};
    total_bytes += view->bytes();
  }
  // Some published indexes miscount or leave the total out, and the files themselves are already checked to the byte.
  const nlohmann::json* metadata = fields.object_or_null("metadata");
  SLUICE_RETURN_IF_ERROR(fields.status());
  if (metadata == nullptr) return {};
  JsonFields about(*metadata, path + ": metadata");
  const double declared = about.number_or("total_size", static_cast<double>(total_bytes), kNonNegativeNumber);
  if (about.status().ok() && declared != static_cast<double>(total_bytes))
    log_warn("{}: metadata: total_size: expected {} bytes, the sum of the tensors, found {}", path, total_bytes,
             declared);
  return about.status();
}

Result<Checkpoint> Checkpoint::open(const std::string& directory, const ModelConfig& config) {
  auto impl = std::make_unique<Impl>();
  impl->directory = directory;
  impl->block_rows = config.weight_block_rows;
  impl->block_cols = config.weight_block_cols;
  impl->tied = config.tie_word_embeddings;
  impl->packed = config.packed;
  impl->short_scale_names = config.hybrid.has_value();
  std::error_code ignored;  // what cannot be looked at is told by the attempt to open it
  if (std::filesystem::exists(directory + "/" + kSingleFile, ignored)) {
    SLUICE_ASSIGN_OR_RETURN(const SafetensorsFile* file, impl->add_file(kSingleFile));
    for (const auto& [tensor, view] : file->tensors()) impl->entries[tensor] = {file, view};
  } else if (std::filesystem::exists(directory + "/" + kIndexFile, ignored)) {
    SLUICE_RETURN_IF_ERROR(impl->read_index());
  } else {
    return not_found("{}: expected {} or {}, found neither", directory, kSingleFile, kIndexFile);
  }
  return Checkpoint(std::move(impl));
}

Checkpoint Checkpoint::random(uint64_t seed, const ModelConfig& config) {
  auto impl = std::make_unique<Impl>();
  impl->directory = "random weights";
  impl->tied = config.tie_word_embeddings;
  impl->seed = seed;
  impl->num_experts = config.n_routed_experts;
  for (TensorSpec& spec : required_tensors(config))
    impl->entries[std::move(spec.name)].view = {nullptr, spec.shape.rank == 1 ? DType::kF32 : DType::kBF16, spec.shape};
  return Checkpoint(std::move(impl));
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

bool Checkpoint::has(const std::string& name) const {
  return impl_->find(name) != nullptr || impl_->is_packed(name);
}

bool Checkpoint::is_packed(const std::string& name) const { return impl_->is_packed(name); }

WeightFormat Checkpoint::native_format() const {
  if (impl_->packed) {
    const PackedScheme& scheme = *impl_->packed;
    if (scheme.bits == 8) return WeightFormat::kInt8;
    if (scheme.group == 32) return scheme.symmetric ? WeightFormat::kInt4G32 : WeightFormat::kInt4G32Z;
    if (scheme.group == 64) return scheme.symmetric ? WeightFormat::kInt4G64 : WeightFormat::kInt4G64Z;
    return scheme.symmetric ? WeightFormat::kInt4G128 : WeightFormat::kInt4G128Z;
  }
  const Impl::Entry* embedding = impl_->find(impl_->short_scale_names ? kShortEmbedding : kEmbedding);
  return !impl_->seed && embedding && embedding->view.dtype == DType::kF32 ? WeightFormat::kF32 : WeightFormat::kBF16;
}

Status Checkpoint::expect_exact(const std::string& name, int64_t cols) const {
  if (!impl_->is_packed(name)) return {};
  const int64_t stored = packed_group(*impl_->packed, impl_->resolve(name), impl_->lookup());
  const int32_t ours = group_size(native_format(), cols);
  if (ours > 0 && stored % ours == 0) return {};
  return failed_precondition(
      "{}: tensor \"{}\": groups of {} inputs cannot be taken as they are into {}; --weights names another format",
      impl_->directory, name, stored, sluice::name(native_format()));
}

Status Checkpoint::expect(const TensorSpec& spec) const {
  const auto& [name, shape, storage] = spec;
  const Impl::Entry* entry = impl_->find(name);
  if (impl_->is_packed(name))
    return expect_packed(*impl_->packed, impl_->resolve(name), shape, impl_->lookup())
        .with_context(impl_->directory);
  if (entry == nullptr)
    return failed_precondition("{}: tensor \"{}\": expected {}, found no such tensor", impl_->directory,
                               impl_->resolve(name), shape.to_string());
  const std::string& path = entry->file ? entry->file->path() : impl_->directory;
  if (storage == Storage::kFp4 && entry->view.dtype == DType::kI8) return impl_->expect_fp4(spec, *entry);
  if (!(entry->view.shape == shape))
    return failed_precondition("{}: tensor \"{}\": shape: expected {}, found {}", path, name, shape.to_string(),
                               entry->view.shape.to_string());
  if (storage == Storage::kTokenIds) {
    if (entry->view.dtype == DType::kI64 || entry->view.dtype == DType::kI32 || impl_->seed) return {};
    return failed_precondition("{}: tensor \"{}\": dtype: expected I64 or I32, found {}", path, name,
                               sluice::name(entry->view.dtype));
  }
  if (!is_float(entry->view.dtype))
    return failed_precondition("{}: tensor \"{}\": dtype: expected one of F32, F16, BF16, F8_E4M3, found {}", path,
                               name, sluice::name(entry->view.dtype));
  return entry->view.dtype == DType::kF8E4M3 ? impl_->expect_scales(name, *entry) : Status();
}

Status Checkpoint::Impl::expect_scales(const std::string& name, const Entry& weights) const {
  const std::string& path = weights.file->path();
  if (block_rows == 0)
    return failed_precondition(
        "{}: tensor \"{}\": dtype F8_E4M3: expected quantization_config.weight_block_size in config.json, found none",
        path, name);
  if (weights.view.shape.rank != 2)
    return failed_precondition("{}: tensor \"{}\": expected 2 dimensions for F8_E4M3, found {}", path, name,
                               weights.view.shape.to_string());
  return expect_scale_tensor(name, path, scale_shape(weights.view.shape));
}

// Two codes a byte, so half as many columns; 32 of them share a scale, so there are whole groups.
Status Checkpoint::Impl::expect_fp4(const TensorSpec& spec, const Entry& weights) const {
  const std::string& path = weights.file->path();
  const Shape in_pairs = {spec.shape[0], spec.shape[1] / 2};
  if (spec.shape[1] % kFp4Group != 0)
    return failed_precondition("{}: tensor \"{}\": expected a multiple of {} columns for FP4, found {}", path,
                               spec.name, kFp4Group, spec.shape[1]);
  if (!(weights.view.shape == in_pairs))
    return failed_precondition("{}: tensor \"{}\": shape: expected {} bytes of two values, found {}", path, spec.name,
                               in_pairs.to_string(), weights.view.shape.to_string());
  return expect_scale_tensor(spec.name, path, {spec.shape[0], spec.shape[1] / kFp4Group});
}

Status Checkpoint::Impl::expect_scale_tensor(const std::string& name, const std::string& path,
                                             const Shape& expected) const {
  const std::string scale_name = scales_of(name);
  const Entry* scales = find(scale_name);
  if (scales == nullptr)
    return failed_precondition("{}: tensor \"{}\": expected {}, found no such tensor", path, scale_name,
                               expected.to_string());
  if (!(scales->view.shape == expected))
    return failed_precondition("{}: tensor \"{}\": shape: expected {}, found {}", scales->file->path(), scale_name,
                               expected.to_string(), scales->view.shape.to_string());
  const DType dtype = scales->view.dtype;
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF8E8M0)
    return failed_precondition("{}: tensor \"{}\": dtype: expected F32, BF16 or F8_E8M0, found {}",
                               scales->file->path(), scale_name, sluice::name(dtype));
  return {};
}

void Checkpoint::read_rows(const std::string& name, int64_t row_begin, int64_t num_rows, float* out) const {
  if (impl_->is_packed(name)) {
    read_packed_rows(*impl_->packed, impl_->resolve(name), row_begin, num_rows, impl_->lookup(), out);
    return;
  }
  const Impl::Entry& entry = impl_->at(name);
  const TensorView& view = entry.view;
  SLUICE_CHECK(view.shape.rank == 1 || view.shape.rank == 2, "{}: shape {}", name, view.shape.to_string());
  const bool is_fp4 = view.dtype == DType::kI8;
  const int64_t cols = view.shape.rank == 2 ? view.shape[1] * (is_fp4 ? 2 : 1) : 1;
  SLUICE_CHECK(row_begin >= 0 && num_rows >= 0 && num_rows <= view.shape[0] - row_begin, "{}: rows [{}, {}) of {}",
               name, row_begin, row_begin + num_rows, view.shape[0]);
  if (impl_->seed) {
    random_values(*impl_->seed, impl_->resolve(name), row_begin * cols, num_rows * cols, out);
    return;
  }
  if (is_fp4) {
    widen_fp4(view, row_begin * cols, num_rows * cols, out);
    impl_->apply_scales(impl_->at(impl_->scales_of(name)).view, 1, kFp4Group, row_begin, num_rows, cols, out);
    return;
  }
  widen_to_f32(view, row_begin * cols, num_rows * cols, out);
  if (view.dtype == DType::kF8E4M3)
    impl_->apply_scales(impl_->at(impl_->scales_of(name)).view, impl_->block_rows, impl_->block_cols, row_begin,
                        num_rows, cols, out);
}

void Checkpoint::read_block(const std::string& name, int64_t row_begin, int64_t num_rows, int64_t cols,
                            int64_t col_begin, int64_t num_cols, float* out, int64_t out_stride) const {
  const Impl::Entry* entry = impl_->find(name);
  const bool plain = entry != nullptr && entry->view.dtype != DType::kF8E4M3 && entry->view.dtype != DType::kI8;
  SLUICE_CHECK(col_begin >= 0 && num_cols >= 0 && col_begin + num_cols <= cols && num_cols <= out_stride,
               "{}: columns [{}, {}) of {}", name, col_begin, col_begin + num_cols, cols);
  if (plain) {
    for (int64_t row = 0; row < num_rows; ++row) {
      const int64_t begin = (row_begin + row) * cols + col_begin;
      if (impl_->seed) {
        random_values(*impl_->seed, impl_->resolve(name), begin, num_cols, out + row * out_stride);
      } else {
        widen_to_f32(entry->view, begin, num_cols, out + row * out_stride);
      }
    }
    return;
  }
  std::vector<float> whole(static_cast<size_t>(num_rows * cols));
  read_rows(name, row_begin, num_rows, whole.data());
  for (int64_t row = 0; row < num_rows; ++row)
    std::copy_n(whole.data() + row * cols + col_begin, num_cols, out + row * out_stride);
}

std::vector<int32_t> Checkpoint::read_ids(const std::string& name) const {
  const TensorView& view = impl_->at(name).view;
  const int64_t rows = view.shape[0], cols = view.shape[1];
  std::vector<int32_t> ids(static_cast<size_t>(rows * cols));
  if (impl_->seed) {
    for (int64_t row = 0; row < rows; ++row)
      random_choice(*impl_->seed, name, row, impl_->num_experts, static_cast<int32_t>(cols), ids.data() + row * cols);
  } else if (view.dtype == DType::kI32) {
    std::memcpy(ids.data(), view.data, ids.size() * sizeof(int32_t));
  } else {
    SLUICE_CHECK(view.dtype == DType::kI64, "{}: dtype {}", name, sluice::name(view.dtype));
    for (size_t i = 0; i < ids.size(); ++i) {
      int64_t id = 0;
      std::memcpy(&id, view.data + i * sizeof(id), sizeof(id));
      ids[i] = std::in_range<int32_t>(id) ? static_cast<int32_t>(id) : -1;
    }
  }
  return ids;
}

// values[i, j] *= scales[i / rows_each, j / cols_each], the last block of a row or column being partial.
void Checkpoint::Impl::apply_scales(const TensorView& scales, int64_t rows_each, int64_t cols_each, int64_t row_begin,
                                    int64_t num_rows, int64_t cols, float* values) const {
  const int64_t scale_cols = scales.shape[1];
  std::vector<float> row_scales(static_cast<size_t>(scale_cols));
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t row = row_begin + i;
    if (i == 0 || row % rows_each == 0)
      widen_scales(scales, row / rows_each * scale_cols, scale_cols, row_scales.data());
    for (int64_t block = 0; block < scale_cols; ++block) {
      const float scale = row_scales[static_cast<size_t>(block)];
      float* begin = values + i * cols + block * cols_each;
      float* end = values + i * cols + std::min(cols, (block + 1) * cols_each);
      for (float* value = begin; value < end; ++value) *value *= scale;
    }
  }
}

DType Checkpoint::dtype(const std::string& name) const {
  return impl_->is_packed(name) ? DType::kF16 : impl_->at(name).view.dtype;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  if (impl_->seed) return names;
  for (const auto& [name, entry] : impl_->entries) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

int64_t Checkpoint::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& file : impl_->files) bytes += file->file_bytes();
  return bytes;
}

}  // namespace sluice
