// Consecutive pieces of one scratch reservation, each aligned to a cache line. Run once without memory to learn the
// size, then with it:  Carver count; Plan(count);  Carver place(scratch.reserve(count.bytes())); Plan plan(place);
#pragma once

#include <cstddef>
#include <cstdint>

namespace sluice::cpu::SLUICE_ISA {

class Carver {
 public:
  explicit Carver(std::byte* memory = nullptr) : address_(reinterpret_cast<uintptr_t>(memory)), begin_(address_) {}

  template <typename T>
  T* take(int64_t count) {
    T* piece = reinterpret_cast<T*>(address_);
    address_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }
  size_t bytes() const { return address_ - begin_; }

 private:
  uintptr_t address_, begin_;
};

}  // namespace sluice::cpu::SLUICE_ISA
