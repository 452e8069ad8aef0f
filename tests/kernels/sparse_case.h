// Pages for tests of the indexer and of sparse attention: one layer's slice of a pool whose pages lie in shuffled order
// beside another layer's; all bytes are ones (NaN in f32 and bf16) until somebody writes an entry.
#pragma once

#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {

class PagedPool {
 public:
  // Sequences of the given lengths, entries of `width` values.
  PagedPool(const std::vector<int32_t>& lengths, int32_t width, DType dtype) : width_(width), dtype_(dtype) {
    int32_t num_pages = 1;  // one that nobody owns
    for (int32_t length : lengths) num_pages += (length + kPageTokens - 1) / kPageTokens;
    const std::vector<int32_t> order = shuffled(num_pages, 17);
    size_t next = 0;
    for (int32_t length : lengths) {
      pages_.emplace_back();
      for (int32_t begin = 0; begin < length; begin += kPageTokens) pages_.back().push_back(PageId{order[next++]});
    }
    bytes_.assign(static_cast<size_t>(num_pages * 2 * layer_bytes()), std::byte{0xFF});
  }

  LatentCache cache() { return {bytes_.data() + layer_bytes(), 2 * layer_bytes(), dtype_}; }
  const PageId* pages(int32_t sequence) const { return pages_[static_cast<size_t>(sequence)].data(); }
  const std::vector<std::byte>& bytes() const { return bytes_; }

  std::byte* entry(int32_t sequence, int32_t position) {
    return bytes_.data() + layer_bytes() + value(pages(sequence)[position / kPageTokens]) * 2 * layer_bytes() +
           position % kPageTokens * width_ * size_of(dtype_);
  }
  void write(int32_t sequence, int32_t position, int32_t index, float number) {
    if (dtype_ == DType::kF32) {
      reinterpret_cast<float*>(entry(sequence, position))[index] = number;
    } else {
      reinterpret_cast<uint16_t*>(entry(sequence, position))[index] = f32_to_bf16(number);
    }
  }
  std::vector<float> read(int32_t sequence, int32_t position) {
    std::vector<float> values(static_cast<size_t>(width_));
    widen_to_f32({entry(sequence, position), dtype_, Shape{width_}}, 0, width_, values.data());
    return values;
  }

 private:
  int64_t layer_bytes() const { return kPageTokens * width_ * size_of(dtype_); }

  int32_t width_;
  DType dtype_;
  std::vector<std::vector<PageId>> pages_;
  std::vector<std::byte> bytes_;
};

}  // namespace sluice
