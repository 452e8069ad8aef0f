// Weights in the layouts of the CUDA kernels: packed on the host by the loader that the CPU backends use, then copied to
// the device. A matrix [n, k] is packed as its shuffled codes (kernels/cuda/gemm/gemm.h), then, in 4 bits, its scales; k
// is padded with zeros to whole steps and groups.
#pragma once

#include "gpu/device_memory.h"
#include "kernels/cuda/types.h"
#include "model/packed_weights.h"

namespace sluice {

// bf16, int4-g32, int4-g64 and int4-g128. Outputs are a multiple of 16.
const WeightPacking& cuda_packing();

struct CudaMatrixShape {
  CudaMatrixShape(WeightFormat format, int64_t n, int64_t cols);

  WeightFormat format;  // as stored: see storage_format() in sluice/quantize.h
  int64_t n, x_cols;
  int64_t k;      // x_cols, padded
  int32_t group;  // inputs that share a scale; 0 for bf16

  int64_t codes_bytes() const { return format == WeightFormat::kBF16 ? n * k * 2 : n * k / 2; }
  int64_t scales_bytes() const { return group == 0 ? 0 : n * (k / group) * 2; }
};

// Matrices of one shape on the device, as one product takes them: all codes, then all scales.
struct DeviceMatrices {
  int32_t n = 0, k = 0, x_cols = 0, group = 0, count = 0;
  const std::byte* codes = nullptr;
  const cuda::f16* scales = nullptr;
  DeviceBuffer memory;

  int64_t bytes() const { return memory.bytes(); }
};

// What `count` such matrices take there.
int64_t device_matrices_bytes(const CudaMatrixShape& shape, int64_t count);

// Loads onto a device. The first error of the device sticks: later calls return nothing, and whoever loads asks status()
// at the end.
class DeviceLoader {
 public:
  DeviceLoader(WeightLoader& loader, Device& device) : loader_(loader), device_(device) {}

  DeviceMatrices pack(const std::vector<RowSource>& sources) { return upload(sources, loader_.format()); }
  DeviceMatrices pack_bf16(const std::vector<RowSource>& sources) { return upload(sources, WeightFormat::kBF16); }
  DeviceBuffer vector(const std::string& name, int64_t size);   // [size] f32
  DeviceBuffer rows_bf16(const std::string& name, int64_t rows, int64_t cols);  // the embedding

  WeightLoader& rows() { return loader_; }
  const Status& status() const { return status_; }
  int64_t bytes() const { return bytes_; }  // allocated so far

 private:
  DeviceMatrices upload(const std::vector<RowSource>& sources, WeightFormat format);
  DeviceBuffer allocate(int64_t bytes);
  void copy_in(std::byte* device, const std::byte* host, int64_t bytes);
  void wait();

  WeightLoader& loader_;
  Device& device_;
  Status status_;
  int64_t bytes_ = 0;
};

}  // namespace sluice
