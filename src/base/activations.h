// A step's activations: arrays that are sized once, for the largest step, and counted, so that what a model needs beside
// weights and cache can be asked of the code that allocates it. Uninitialised; as with the cache's pages memory becomes
// resident when it is first written. Grows by resize() alone, which keeps nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

#include "sluice/tensor.h"

namespace sluice {

// Of all arrays of this process.
inline std::atomic<int64_t>& activation_bytes() {
  static std::atomic<int64_t> bytes{0};
  return bytes;
}

template <typename T>
class Activations {
 public:
  using value_type = T;

  Activations() = default;
  ~Activations() { count(0); }
  Activations(Activations&& other) noexcept
      : buffer_(std::move(other.buffer_)), size_(std::exchange(other.size_, 0)), counted_(std::exchange(other.counted_, 0)) {}
  Activations& operator=(Activations&& other) noexcept {
    std::swap(buffer_, other.buffer_);
    std::swap(size_, other.size_);
    std::swap(counted_, other.counted_);
    return *this;
  }

  void resize(size_t size) {
    if (size == size_) return;
    buffer_ = Buffer();  // before the new one is there
    buffer_ = Buffer(size * sizeof(T));
    size_ = size;
    count(static_cast<int64_t>(size * sizeof(T)));
  }

  size_t size() const { return size_; }
  T* data() { return buffer_.as<T>(); }
  const T* data() const { return buffer_.as<T>(); }
  T* begin() { return data(); }
  T* end() { return data() + size_; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }

 private:
  void count(int64_t bytes) { activation_bytes() += bytes - std::exchange(counted_, bytes); }

  Buffer buffer_;
  size_t size_ = 0;
  int64_t counted_ = 0;
};

}  // namespace sluice
