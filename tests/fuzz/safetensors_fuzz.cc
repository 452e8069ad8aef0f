// safetensors files from the outside world: no input may crash, read out of bounds, or be accepted with views that are
// not exactly the file's data. An input is taken twice, as the file itself and as what follows a right length field
// (two bytes say where its header ends), so that the fuzzer need not find the length by itself.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "sluice/check.h"

#include "model/safetensors.h"

namespace sluice {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF8E4M3;
}

// The bytes lie in a heap block of just their size, so that AddressSanitizer sees the first byte too many.
void check_file(const std::string& bytes) {
  const std::vector<std::byte> file(reinterpret_cast<const std::byte*>(bytes.data()),
                                    reinterpret_cast<const std::byte*>(bytes.data()) + bytes.size());
  const Result<TensorMap> tensors = parse_safetensors(file, "fuzz");
  if (!tensors.ok()) {
    const Status status = tensors.status();
    const std::string& message = status.message();
    SLUICE_CHECK(status.code() == StatusCode::kDataLoss && message.starts_with("fuzz: "), "{}", message);
    SLUICE_CHECK(message.size() < 512 && message.find('\n') == std::string::npos, "{}", message);
    return;
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof(header_bytes));
  uint64_t covered = 8 + header_bytes;
  for (const auto& [name, view] : *tensors) {
    SLUICE_CHECK(view.data >= file.data() + 8 + header_bytes, "{}", name);
    SLUICE_CHECK(view.data + view.bytes() <= file.data() + file.size(), "{}", name);
    covered += static_cast<uint64_t>(view.bytes());
    if (!is_float(view.dtype)) continue;
    std::vector<float> values(static_cast<size_t>(view.shape.num_elements()));
    widen_to_f32(view, 0, view.shape.num_elements(), values.data());
  }
  SLUICE_CHECK(covered == file.size(), "covered={} size={}", covered, file.size());
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  sluice::check_file(input);
  if (size < 2) return 0;
  const uint64_t header_bytes = std::min<uint64_t>(data[0] | data[1] << 8, size - 2);
  std::string length(8, '\0');
  std::memcpy(length.data(), &header_bytes, sizeof(header_bytes));
  sluice::check_file(length + input.substr(2));
  return 0;
}
