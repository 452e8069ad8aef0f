// Views of tensors as they lie in files: dtype, shape, bytes. Owns nothing; the safetensors mapping or a
// Buffer owns. Activations inside the model are plain `float*` with their shape in a comment instead.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "sluice/check.h"

namespace sluice {

enum class DType : uint8_t { kF32, kF16, kBF16, kF8E4M3, kF8E8M0, kI8, kU8, kI32, kI64, kBool };

int64_t size_of(DType dtype);   // bytes an element
const char* name(DType dtype);  // the safetensors spelling: "F32", "BF16", "F8_E4M3", ...

constexpr int kMaxRank = 4;

// Row-major dimensions, outermost first.
struct Shape {
  std::array<int64_t, kMaxRank> dims{};
  int rank = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> values);
  int64_t operator[](int axis) const { return dims[static_cast<size_t>(axis)]; }
  int64_t num_elements() const;  // 1 for rank 0
  bool operator==(const Shape& other) const;
  std::string to_string() const;  // "[64, 256]"
};

// A read-only tensor in somebody else's memory. `data` may be unaligned (safetensors promises nothing).
struct TensorView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;

  int64_t bytes() const { return shape.num_elements() * size_of(dtype); }
};

// Uninitialised bytes, aligned to 64; large ones ask for huge pages (decode streams weights once per
// token, and 4 KiB pages cost 15 % of read bandwidth, measured in the CPU baseline).
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Element conversions, exact where the target holds the value, else round to nearest even.
float bf16_to_f32(uint16_t bits);
uint16_t f32_to_bf16(float value);
float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16(float value);
float f8e4m3_to_f32(uint8_t bits);   // 0x7F and 0xFF are NaN, no infinity
uint8_t f32_to_f8e4m3(float value);  // saturates at 448

// Widens `count` elements starting at element `begin` of a float tensor (F32, F16, BF16, F8E4M3) to f32.
void widen_to_f32(const TensorView& tensor, int64_t begin, int64_t count, float* out);

}  // namespace sluice
