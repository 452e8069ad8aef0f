#include "model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>
#include <vector>

#include "model/json_fields.h"

namespace sluice {

namespace {

constexpr uint64_t kLengthBytes = 8;
// DeepSeek-V3's largest header is about 0.1 MiB; the format's own readers stop at this size as well.
constexpr uint64_t kMaxHeaderBytes = uint64_t{100} << 20;
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::array kDTypes = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF8E8M0,
                                DType::kI8,  DType::kU8,  DType::kI32,  DType::kI64,    DType::kBool};

// One tensor as its header entry tells it.
struct Entry {
  DType dtype = DType::kF32;
  std::vector<uint64_t> shape;         // at most kMaxRank
  std::vector<uint64_t> data_offsets;  // [begin, end) in the data, two values
  bool has_dtype = false;
  bool has_shape = false;
  bool has_offsets = false;
};

// Reads the header event by event, so that nothing is built that the format does not allow: the first thing out of
// place ends the parse with an error in `error()`.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::string& error() const { return error_; }
  std::unordered_map<std::string, Entry>& entries() { return entries_; }

  bool start_object(std::size_t) override {
    if (place_ == Place::kStart) return go(Place::kRoot);
    if (place_ == Place::kRoot) return go(key_ == kMetadataKey ? Place::kMetadata : Place::kTensor);
    return refuse("an object");
  }

  bool end_object() override {
    if (place_ == Place::kRoot) return go(Place::kEnd);
    if (place_ == Place::kTensor && !complete()) return false;
    return go(Place::kRoot);
  }

  bool key(string_t& text) override {
    switch (place_) {
      case Place::kRoot:
        return open_entry(text);
      case Place::kMetadata:
        return true;
      default:
        return open_field(text);
    }
  }

  bool string(string_t& text) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != Field::kDtype) return refuse(in_quotes(text));
    const auto found = std::find_if(kDTypes.begin(), kDTypes.end(), [&](DType d) { return text == name(d); });
    if (found == kDTypes.end()) return refuse(in_quotes(text));
    entry_->dtype = *found;
    entry_->has_dtype = true;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == Field::kDtype) return refuse("an array");
    return go(Place::kNumbers);
  }

  bool end_array() override {
    if (field_ == Field::kOffsets && entry_->data_offsets.size() != 2) return refuse("fewer numbers");
    (field_ == Field::kShape ? entry_->has_shape : entry_->has_offsets) = true;
    return go(Place::kTensor);
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kNumbers) return refuse(fmt::format("{}", value));
    std::vector<uint64_t>& numbers = field_ == Field::kShape ? entry_->shape : entry_->data_offsets;
    if (numbers.size() == (field_ == Field::kShape ? static_cast<size_t>(kMaxRank) : 2)) return refuse("more numbers");
    numbers.push_back(value);
    return true;
  }

  bool null() override { return place_ == Place::kRoot && key_ == kMetadataKey ? true : refuse("null"); }
  bool boolean(bool value) override { return refuse(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return refuse(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { return refuse(in_quotes(text)); }
  bool binary(binary_t&) override { return refuse("binary"); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (error_.empty()) error_ = fmt::format("header: expected JSON, found a syntax error at its byte {}", position);
    return false;
  }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kNumbers, kEnd };
  enum class Field { kDtype, kShape, kOffsets };

  bool go(Place place) {
    place_ = place;
    return true;
  }

  // Expected is what the current place allows.
  bool refuse(const std::string& found) {
    switch (place_) {
      case Place::kStart:
      case Place::kEnd:
        error_ = fmt::format("header: expected an object, found {}", found);
        break;
      case Place::kRoot:
        error_ = fmt::format("{}: expected an object, found {}", subject(), found);
        break;
      case Place::kMetadata:
        error_ = fmt::format("{}: expected strings, found {}", kMetadataKey, found);
        break;
      case Place::kTensor:
      case Place::kNumbers:
        error_ = fmt::format("{}: {}, found {}", subject(), expected_of_field(), found);
    }
    return false;
  }

  std::string subject() const { return key_ == kMetadataKey ? key_ : "tensor " + in_quotes(key_); }

  std::string expected_of_field() const {
    if (field_ == Field::kShape) return fmt::format("shape: expected at most {} non-negative integers", kMaxRank);
    if (field_ == Field::kOffsets) return "data_offsets: expected two non-negative integers";
    std::string known;
    for (DType dtype : kDTypes) known += fmt::format("{}{}", known.empty() ? "" : ", ", name(dtype));
    return "dtype: expected one of " + known;
  }

  bool open_entry(string_t& text) {
    key_ = std::move(text);
    if (key_ == kMetadataKey) {
      if (std::exchange(metadata_seen_, true)) error_ = "__metadata__: expected once, found twice";
      return error_.empty();
    }
    const auto [place, inserted] = entries_.try_emplace(key_);
    entry_ = &place->second;
    if (!inserted) error_ = fmt::format("{}: expected once, found twice", subject());
    return inserted;
  }

  bool open_field(const string_t& text) {
    bool seen = false;
    if (text == "dtype") {
      field_ = Field::kDtype;
      seen = entry_->has_dtype;
    } else if (text == "shape") {
      field_ = Field::kShape;
      seen = entry_->has_shape;
    } else if (text == "data_offsets") {
      field_ = Field::kOffsets;
      seen = entry_->has_offsets;
    } else {
      error_ = fmt::format("{}: expected dtype, shape and data_offsets, found {}", subject(), in_quotes(text));
      return false;
    }
    if (seen) error_ = fmt::format("{}: {}: expected once, found twice", subject(), text);
    return !seen;
  }

  bool complete() {
    const char* missing = !entry_->has_dtype     ? "dtype"
                          : !entry_->has_shape   ? "shape"
                          : !entry_->has_offsets ? "data_offsets"
                                                 : nullptr;
    if (missing == nullptr) return true;
    error_ = fmt::format("{}: {}: expected a value, found no such key", subject(), missing);
    return false;
  }

  Place place_ = Place::kStart;
  Field field_ = Field::kDtype;
  std::string key_;         // of the current entry of the root object
  Entry* entry_ = nullptr;  // of key_; stays valid, because unordered_map nodes do not move
  bool metadata_seen_ = false;
  std::unordered_map<std::string, Entry> entries_;
  std::string error_;
};

std::string dims_text(const std::vector<uint64_t>& dims) { return fmt::format("[{}]", fmt::join(dims, ", ")); }

// The entry as a view into `data`, its own numbers checked: shape * dtype == end - begin <= data.
Result<TensorView> to_view(const std::string& name_in_file, const Entry& entry, std::span<const std::byte> data,
                           const std::string& path) {
  const auto refuse = [&](const std::string& what) {
    return data_loss("{}: tensor {}: {}", path, in_quotes(name_in_file), what);
  };
  const uint64_t begin = entry.data_offsets[0], end = entry.data_offsets[1];
  if (begin > end) return refuse(fmt::format("data_offsets: expected begin <= end, found [{}, {}]", begin, end));
  if (end > data.size())
    return refuse(
        fmt::format("data_offsets: expected at most {} bytes of data, found [{}, {}]", data.size(), begin, end));
  uint64_t bytes = static_cast<uint64_t>(size_of(entry.dtype));
  TensorView view;
  for (uint64_t dim : entry.shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes) || bytes > static_cast<uint64_t>(INT64_MAX) ||
        dim > static_cast<uint64_t>(INT64_MAX))
      return refuse(fmt::format("shape: expected less than 2^63 bytes, found {}", dims_text(entry.shape)));
    view.shape.dims[static_cast<size_t>(view.shape.rank++)] = static_cast<int64_t>(dim);
  }
  if (bytes != end - begin)
    return refuse(fmt::format("data_offsets: expected {} bytes for {} {}, found [{}, {}], {} bytes", bytes,
                              name(entry.dtype), dims_text(entry.shape), begin, end, end - begin));
  view.dtype = entry.dtype;
  view.data = data.data() + begin;
  return view;
}

// The format wants the tensors to cover the data exactly.
Status check_coverage(const TensorMap& tensors, std::span<const std::byte> data, const std::string& path) {
  std::vector<const TensorMap::value_type*> order;
  order.reserve(tensors.size());
  for (const auto& item : tensors) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    // An empty tensor comes before one that begins at the same byte.
    return std::pair(a->second.data, a->second.bytes()) < std::pair(b->second.data, b->second.bytes());
  });
  const std::byte* covered = data.data();
  for (const auto* item : order) {
    if (item->second.data != covered)
      return data_loss(
          "{}: tensor {}: data_offsets: expected to begin at {}, where the tensor before it ends, found {} ({})", path,
          in_quotes(item->first), covered - data.data(), item->second.data - data.data(),
          item->second.data < covered ? "overlap" : "hole");
    covered += item->second.bytes();
  }
  const std::byte* end = data.data() + data.size();
  if (covered != end)
    return data_loss("{}: expected {} bytes of data after the header, found {}", path, covered - data.data(),
                     end - data.data());
  return {};
}

}  // namespace

Result<TensorMap> parse_safetensors(std::span<const std::byte> file, const std::string& path) {
  if (file.size() < kLengthBytes)
    return data_loss("{}: expected at least {} bytes, found {}", path, kLengthBytes, file.size());
  uint64_t header_bytes = 0;
  for (uint64_t i = 0; i < kLengthBytes; ++i) header_bytes |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (header_bytes > kMaxHeaderBytes)
    return data_loss("{}: header length: expected at most {} bytes, found {}", path, kMaxHeaderBytes, header_bytes);
  if (header_bytes > file.size() - kLengthBytes)
    return data_loss("{}: header length: expected at most the file's {} remaining bytes, found {}", path,
                     file.size() - kLengthBytes, header_bytes);
  const char* header = reinterpret_cast<const char*>(file.data()) + kLengthBytes;
  if (header_bytes == 0 || *header != '{') return data_loss("{}: header: expected to begin with '{{'", path);
  HeaderReader reader;
  if (!nlohmann::json::sax_parse(header, header + header_bytes, &reader))
    return data_loss("{}: {}", path, reader.error());
  const std::span<const std::byte> data = file.subspan(kLengthBytes + header_bytes);
  TensorMap tensors;
  for (const auto& [tensor, entry] : reader.entries()) {
    SLUICE_ASSIGN_OR_RETURN(tensors[tensor], to_view(tensor, entry, data, path));
  }
  SLUICE_RETURN_IF_ERROR(check_coverage(tensors, data, path));
  return tensors;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block
  if (fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return not_found("{}: no such file", path);
    return failed_precondition("{}: cannot be opened: {}", path, std::strerror(errno));
  }
  struct stat info {};
  const bool regular = fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  const size_t size = regular ? static_cast<size_t>(info.st_size) : 0;
  void* address = size > 0 ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : nullptr;
  const int map_error = errno;
  ::close(fd);
  if (!regular) return failed_precondition("{}: expected a regular file, found something else", path);
  if (address == MAP_FAILED)
    return failed_precondition("{}: cannot be mapped ({} bytes): {}", path, size, std::strerror(map_error));
  SafetensorsFile file(path, {static_cast<const std::byte*>(address), size});
  SLUICE_ASSIGN_OR_RETURN(file.tensors_, parse_safetensors(file.mapping_, path));
  return file;
}

SafetensorsFile::SafetensorsFile(std::string path, std::span<const std::byte> mapping)
    : path_(std::move(path)), mapping_(mapping) {}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)), mapping_(std::exchange(other.mapping_, {})), tensors_(std::move(other.tensors_)) {}

SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(mapping_, other.mapping_);
  std::swap(tensors_, other.tensors_);
  return *this;
}

SafetensorsFile::~SafetensorsFile() {
  // Unmapping what was mapped cannot fail.
  if (!mapping_.empty()) munmap(const_cast<std::byte*>(mapping_.data()), mapping_.size());
}

const TensorView* SafetensorsFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace sluice
