// Memory of a device as an owner, and the cutting of one block into parts: the engine allocates a few large blocks at
// start and nothing in flight.
#pragma once

#include <utility>

#include "sluice/check.h"
#include "sluice/device.h"

namespace sluice {

constexpr int64_t kDeviceAlignment = 256;  // bytes; what allocate() gives, and more than any vector access needs

// Memory as copies take it.
template <typename T>
std::byte* bytes_of(T* pointer) {
  return reinterpret_cast<std::byte*>(pointer);
}
template <typename T>
const std::byte* bytes_of(const T* pointer) {
  return reinterpret_cast<const std::byte*>(pointer);
}

constexpr int64_t aligned_bytes(int64_t bytes) {
  return (bytes + kDeviceAlignment - 1) / kDeviceAlignment * kDeviceAlignment;
}

enum class MemoryKind : uint8_t { kDevice, kHost };

// `kind` says whose memory; the device outlives it.
template <MemoryKind kKind>
class DeviceBlock {
 public:
  DeviceBlock() = default;
  static Result<DeviceBlock> allocate(Device& device, int64_t bytes) {
    DeviceBlock block;
    if constexpr (kKind == MemoryKind::kDevice) {
      SLUICE_ASSIGN_OR_RETURN(block.data_, device.allocate(bytes));
    } else {
      SLUICE_ASSIGN_OR_RETURN(block.data_, device.allocate_host(bytes));
    }
    block.device_ = &device;
    block.bytes_ = bytes;
    return block;
  }
  ~DeviceBlock() {
    if (!data_) return;
    if constexpr (kKind == MemoryKind::kDevice) {
      device_->release(data_);
    } else {
      device_->release_host(data_);
    }
  }
  DeviceBlock(DeviceBlock&& other) noexcept { swap(other); }
  DeviceBlock& operator=(DeviceBlock&& other) noexcept {
    DeviceBlock gone(std::move(other));
    swap(gone);
    return *this;
  }
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void swap(DeviceBlock& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  Device* device_ = nullptr;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

using DeviceBuffer = DeviceBlock<MemoryKind::kDevice>;
using PinnedBuffer = DeviceBlock<MemoryKind::kHost>;

// Cuts a block into parts, or, without one, only adds up what they need: the same code plans and carves.
class DeviceCarver {
 public:
  explicit DeviceCarver(std::byte* block = nullptr) : block_(block) {}

  template <typename T>
  void carve(T*& part, int64_t count) {
    part = block_ ? reinterpret_cast<T*>(block_ + used_) : nullptr;
    used_ += aligned_bytes(count * static_cast<int64_t>(sizeof(T)));
  }
  int64_t used() const { return used_; }

 private:
  std::byte* block_;
  int64_t used_ = 0;
};

}  // namespace sluice
