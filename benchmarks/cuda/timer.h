// Times work on a CUDA device against measured bounds, and prints rows as text and CSV. A cell is captured as a graph of
// several turns and replayed, so that launches cost what they cost in a decode step; every turn takes other buffers, so
// that weights come from memory and not from L2.
#pragma once

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "sluice/check.h"
#include "sluice/device.h"

#include "gpu/device_memory.h"

namespace sluice {

// More than any L2 there is (H200: 50 MB): buffers of all turns together.
constexpr int64_t kRotatedBytes = int64_t{256} << 20;

inline void require(const Status& status) { SLUICE_CHECK(status.ok(), "{}", status.to_string()); }

struct BenchRow {
  std::string kernel, shape, format;
  double bytes = 0, flops = 0;  // of one turn; 0: does not say anything
  double seconds = 0;
};

class CudaBench {
 public:
  CudaBench(Device& device, std::FILE* csv) : device_(device), csv_(csv) {
    std::fprintf(csv_, "device,kernel,shape,format,us,gb_per_second,tflops,percent_of_copy,percent_of_matrix\n");
    measure_copy();
  }

  // Median of five replays of `turns` calls of body(turn).
  double time(int turns, const std::function<void(int)>& body) {
    body(0);  // loads the kernel, which a capture may not
    require(device_.wait());
    require(device_.begin_capture());
    for (int turn = 0; turn < turns; ++turn) body(turn);
    const Device::Graph graph = device_.end_capture().value();
    require(device_.replay(graph));
    std::vector<double> seconds;
    for (int run = 0; run < 5; ++run) {
      const Device::Event begin = device_.mark().value();
      require(device_.replay(graph));
      const Device::Event end = device_.mark().value();
      require(device_.wait());
      seconds.push_back(device_.seconds_between(begin, end).value() / turns);
      device_.release(begin);
      device_.release(end);
    }
    device_.release(graph);
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  }

  void report(const BenchRow& row) {
    const double gb = row.bytes / row.seconds * 1e-9, tflops = row.flops / row.seconds * 1e-12;
    const double of_copy = gb * 1e9 / copy_bytes_per_second_ * 100;
    const double of_matrix = matrix_flops_ > 0 ? tflops * 1e12 / matrix_flops_ * 100 : 0;
    std::printf("%-24s %-32s %-9s %9.2f us %8.1f GB/s %7.2f TFLOP/s %5.1f %% of copy %5.1f %% of matrix\n",
                row.kernel.c_str(), row.shape.c_str(), row.format.c_str(), row.seconds * 1e6, gb, tflops, of_copy,
                of_matrix);
    std::fprintf(csv_, "%s,%s,%s,%s,%.3f,%.2f,%.3f,%.2f,%.2f\n", device_.properties().name.c_str(), row.kernel.c_str(),
                 row.shape.c_str(), row.format.c_str(), row.seconds * 1e6, gb, tflops, of_copy, of_matrix);
    std::fflush(stdout);
  }

  void set_matrix_rate(double flops) { matrix_flops_ = flops; }
  Device& device() { return device_; }

  // Bytes of random bits with small exponents: neither NaN nor infinity as bf16, f16 or f32.
  DeviceBuffer random(int64_t bytes) {
    DeviceBuffer buffer = DeviceBuffer::allocate(device_, std::max<int64_t>(bytes, 16)).value();
    std::vector<uint16_t> host(static_cast<size_t>(std::min<int64_t>(bytes, int64_t{4} << 20) / 2 + 8));
    uint32_t state = 12345;
    for (uint16_t& value : host) {
      state = state * 1664525 + 1013904223;
      value = static_cast<uint16_t>((state >> 16 & 0x80FF) | 0x3C00);
    }
    const auto size = static_cast<int64_t>(host.size() * 2);
    for (int64_t at = 0; at < bytes; at += size)
      require(device_.copy_in(buffer.data() + at, reinterpret_cast<const std::byte*>(host.data()),
                              std::min(size, bytes - at)));
    require(device_.wait());
    return buffer;
  }
  DeviceBuffer zeros(int64_t bytes) {
    DeviceBuffer buffer = DeviceBuffer::allocate(device_, std::max<int64_t>(bytes, 16)).value();
    require(device_.fill(buffer.data(), 0, buffer.bytes()));
    return buffer;
  }
  template <typename T>
  DeviceBuffer upload(const std::vector<T>& values) {
    const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
    DeviceBuffer buffer = DeviceBuffer::allocate(device_, std::max<int64_t>(bytes, 16)).value();
    require(device_.copy_in(buffer.data(), reinterpret_cast<const std::byte*>(values.data()), bytes));
    require(device_.wait());
    return buffer;
  }

 private:
  void measure_copy() {
    constexpr int64_t kBytes = int64_t{512} << 20;
    const DeviceBuffer from = zeros(kBytes), to = zeros(kBytes);
    copy_bytes_per_second_ = 1;
    const double seconds = time(4, [&](int) { require(device_.copy(to.data(), from.data(), kBytes)); });
    copy_bytes_per_second_ = 2.0 * kBytes / seconds;
    report({"copy", "512 MiB", "bytes", 2.0 * kBytes, 0, seconds});
  }

  Device& device_;
  std::FILE* csv_;
  double copy_bytes_per_second_ = 1;
  double matrix_flops_ = 0;
};

}  // namespace sluice
