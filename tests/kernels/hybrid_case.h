// Pages as DeepSeek-V4 fills them, for tests of its kernels: a window's vectors, compressed entries and compressor
// states of one layer side by side in pages of shuffled order; all bytes are ones (NaN) until somebody writes them.
#pragma once

#include <vector>

#include "tests/kernels/kernel_test.h"

namespace sluice {

class HybridPool {
 public:
  HybridPool(const std::vector<int32_t>& lengths, int32_t dim, int32_t ratio, int32_t series, DType dtype)
      : dim_(dim), ratio_(ratio), series_(series), dtype_(dtype) {
    int32_t num_pages = 1;  // one that nobody owns
    for (int32_t length : lengths) num_pages += (length + kPageTokens - 1) / kPageTokens;
    const std::vector<int32_t> order = shuffled(num_pages, 17);
    size_t next = 0;
    for (int32_t length : lengths) {
      pages_.emplace_back();
      for (int32_t begin = 0; begin < length; begin += kPageTokens) pages_.back().push_back(PageId{order[next++]});
    }
    bytes_.assign(static_cast<size_t>(num_pages * page_bytes()), std::byte{0xFF});
  }

  LatentCache window() { return {bytes_.data(), page_bytes(), dtype_}; }
  CompressedCache compressed() { return {{bytes_.data() + window_bytes(), page_bytes(), dtype_}, ratio_}; }
  std::byte* states() { return bytes_.data() + window_bytes() + compressed_bytes(); }
  int64_t page_bytes() const { return window_bytes() + compressed_bytes() + compressor_state_bytes(series_, dim_); }
  const PageId* pages(int32_t sequence) const { return pages_[static_cast<size_t>(sequence)].data(); }
  const std::vector<std::byte>& bytes() const { return bytes_; }

  void write_window(int32_t sequence, int32_t position, const float* values) {
    store(page(sequence, position) + position % kPageTokens * entry_bytes(), values);
  }
  void write_entry(int32_t sequence, int32_t entry, const float* values) { store(entry_at(sequence, entry), values); }
  std::vector<float> read_entry(int32_t sequence, int32_t entry) { return read(entry_at(sequence, entry)); }
  std::vector<float> read_window(int32_t sequence, int32_t position) {
    return read(page(sequence, position) + position % kPageTokens * entry_bytes());
  }

 private:
  int64_t entry_bytes() const { return dim_ * size_of(dtype_); }
  int64_t window_bytes() const { return kPageTokens * entry_bytes(); }
  int64_t compressed_bytes() const { return std::max(1, kPageTokens / std::max(1, ratio_)) * entry_bytes(); }
  std::byte* page(int32_t sequence, int32_t position) {
    return bytes_.data() + value(pages(sequence)[position / kPageTokens]) * page_bytes();
  }
  // By the words of CompressedCache: in the page of its last position, one after the other.
  std::byte* entry_at(int32_t sequence, int32_t entry) {
    const int32_t last = ratio_ * entry + ratio_ - 1;
    const int32_t place = ratio_ > kPageTokens ? 0 : last % kPageTokens / ratio_;
    return page(sequence, last) + window_bytes() + place * entry_bytes();
  }
  void store(std::byte* target, const float* values) {
    for (int32_t d = 0; d < dim_; ++d) {
      if (dtype_ == DType::kF32) {
        reinterpret_cast<float*>(target)[d] = values[d];
      } else {
        reinterpret_cast<uint16_t*>(target)[d] = f32_to_bf16(values[d]);
      }
    }
  }
  std::vector<float> read(const std::byte* source) const {
    std::vector<float> values(static_cast<size_t>(dim_));
    widen_to_f32({source, dtype_, Shape{dim_}}, 0, dim_, values.data());
    return values;
  }

  int32_t dim_, ratio_, series_;
  DType dtype_;
  std::vector<std::vector<PageId>> pages_;
  std::vector<std::byte> bytes_;
};

struct Piece {
  int32_t sequence, begin, end;
};

// Angles of a position, a pure function of it: [dim / 2] cosines, then sines.
inline void append_angles(int32_t position, int32_t dim, std::vector<float>& out) {
  for (int part = 0; part < 2; ++part)
    for (int32_t i = 0; i < dim / 2; ++i) {
      const double angle = 0.37 * position / (i + 1.0);
      out.push_back(static_cast<float>(part == 0 ? std::cos(angle) : std::sin(angle)));
    }
}

}  // namespace sluice
