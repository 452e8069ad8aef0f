// The device that engine tests run on: the emulated one. Its twin on a GPU is tests/on_gpu/test_device.h.
#pragma once

#include <memory>

#include "tests/support/grid/emulated_device.h"

namespace sluice {

// `multiprocessors` decides how products split their inputs.
inline std::unique_ptr<Device> make_test_device(uint64_t seed, int32_t multiprocessors) {
  return std::make_unique<EmulatedDevice>(EmulatedDevice::Options{.seed = seed, .multiprocessors = multiprocessors});
}

}  // namespace sluice
