// The device that engine tests run on: a real one. Its twin for the emulated grid is tests/support/grid/test_device.h.
#pragma once

#include <memory>

#include "sluice/check.h"

#include "gpu/cuda_device.h"
#include "gpu/cuda_runtime.h"

namespace sluice {

inline std::unique_ptr<Device> make_test_device(uint64_t, int32_t) {
  Result<std::unique_ptr<Device>> device = CudaDevice::open(cuda_runtime(), 0);
  SLUICE_CHECK(device.ok(), "{}", device.status().to_string());
  return std::move(*device);
}

}  // namespace sluice
