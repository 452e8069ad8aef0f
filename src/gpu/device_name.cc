#include "gpu/device_name.h"

#include <charconv>

namespace sluice {

bool is_cuda_device(std::string_view device) { return device == "cuda" || device.starts_with("cuda:"); }

Result<int> cuda_device_index(std::string_view device) {
  if (device == "cuda") return 0;
  const std::string_view number = device.substr(std::string_view("cuda:").size());
  int index = 0;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
  if (error != std::errc{} || end != number.data() + number.size() || index < 0)
    return invalid_argument("device: expected cuda or cuda:INDEX, found \"{}\"", device);
  return index;
}

}  // namespace sluice
