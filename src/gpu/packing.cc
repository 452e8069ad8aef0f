#include "gpu/packing.h"

#include <algorithm>
#include <cstring>

#include "sluice/quantize.h"

#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/weight_layout.h"

namespace sluice {

namespace {

constexpr int64_t kStrip = 16;  // outputs that are shuffled together
static_assert(kPackRows % kStrip == 0);

bool supports(WeightFormat format) {
  return format == WeightFormat::kBF16 || format == WeightFormat::kInt4G32 || format == WeightFormat::kInt4G64 ||
         format == WeightFormat::kInt4G128;
}

int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols) {
  const CudaMatrixShape shape(format, rows, cols);
  return shape.codes_bytes() + shape.scales_bytes();
}

void pack_bf16_strip(const CudaMatrixShape& shape, int64_t row, const float* source, std::byte* packed) {
  std::vector<cuda::bf16> strip(static_cast<size_t>(kStrip * shape.k), cuda::bf16{0});
  for (int64_t i = 0; i < kStrip; ++i)
    for (int64_t j = 0; j < shape.x_cols; ++j)
      strip[static_cast<size_t>(i * shape.k + j)] = {f32_to_bf16(source[i * shape.x_cols + j])};
  cuda::shuffle_bf16(strip.data(), kStrip, shape.k, reinterpret_cast<uint32_t*>(packed + row * shape.k * 2));
}

void pack_int4_strip(const CudaMatrixShape& shape, int64_t row, const float* source, std::byte* packed) {
  std::vector<int8_t> codes(static_cast<size_t>(kStrip * shape.k), 0);
  auto* scales = reinterpret_cast<uint16_t*>(packed + shape.codes_bytes());  // [k / group, n] f16
  std::vector<GroupGrid> grids(static_cast<size_t>(shape.k / shape.group));  // those behind x_cols stay empty: padding
  for (int64_t i = 0; i < kStrip; ++i) {
    quantize_groups(shape.format, source + i * shape.x_cols, shape.group, shape.x_cols / shape.group,
                    codes.data() + i * shape.k, grids.data());
    for (size_t group = 0; group < grids.size(); ++group)
      scales[static_cast<int64_t>(group) * shape.n + row + i] = f32_to_f16(grids[group].scale);
  }
  cuda::shuffle_int4(codes.data(), kStrip, shape.k, reinterpret_cast<uint32_t*>(packed + row * shape.k / 2));
}

void pack(const Weight& weight, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed) {
  const CudaMatrixShape shape(weight.format, weight.rows, weight.cols);
  SLUICE_CHECK(num_rows % kStrip == 0, "rows={}", num_rows);
  for (int64_t row = 0; row < num_rows; row += kStrip) {
    const float* strip = source + row * weight.cols;
    if (shape.group == 0) {
      pack_bf16_strip(shape, row_begin + row, strip, packed);
    } else {
      pack_int4_strip(shape, row_begin + row, strip, packed);
    }
  }
}

constexpr WeightPacking kPacking{
    .name = "cuda", .supports = supports, .packed_bytes = packed_bytes, .pack = pack};

}  // namespace

const WeightPacking& cuda_packing() { return kPacking; }

CudaMatrixShape::CudaMatrixShape(WeightFormat wanted, int64_t outputs, int64_t inputs)
    : format(storage_format(wanted, inputs)),
      n(outputs),
      x_cols(inputs),
      group(is_quantized(format) ? group_size(format, inputs) : 0) {
  const int64_t unit = std::max<int64_t>(group, cuda::kGemmStep);
  k = (inputs + unit - 1) / unit * unit;
}

int64_t device_matrices_bytes(const CudaMatrixShape& shape, int64_t count) {
  return aligned_bytes(count * shape.codes_bytes()) + aligned_bytes(count * shape.scales_bytes());
}

DeviceBuffer DeviceLoader::allocate(int64_t bytes) {
  if (!status_.ok()) return {};
  Result<DeviceBuffer> buffer = DeviceBuffer::allocate(device_, bytes);
  if (buffer.ok()) {
    bytes_ += bytes;
    return std::move(*buffer);
  }
  status_ = buffer.status().with_context("loading weights");
  return {};
}

void DeviceLoader::copy_in(std::byte* device, const std::byte* host, int64_t bytes) {
  if (status_.ok() && bytes > 0) status_ = device_.copy_in(device, host, bytes);
}

// Before the host's memory goes.
void DeviceLoader::wait() {
  if (status_.ok()) status_ = device_.wait();
}

DeviceMatrices DeviceLoader::upload(const std::vector<RowSource>& sources, WeightFormat format) {
  const bool wide = std::any_of(sources.begin(), sources.end(), [](const RowSource& source) { return source.wide; });
  const CudaMatrixShape shape(wide ? WeightFormat::kBF16 : format, sources[0].rows, sources[0].cols);
  const auto count = static_cast<int64_t>(sources.size());
  DeviceMatrices result{.n = static_cast<int32_t>(shape.n),
                        .k = static_cast<int32_t>(shape.k),
                        .x_cols = static_cast<int32_t>(shape.x_cols),
                        .group = shape.group,
                        .count = static_cast<int32_t>(count)};
  result.memory = allocate(device_matrices_bytes(shape, count));
  if (!status_.ok()) return result;
  const PackedMatrices packed = loader_.pack_as(sources, shape.format);
  std::byte* codes = result.memory.data();
  std::byte* scales = codes + aligned_bytes(count * shape.codes_bytes());
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* matrix = packed[static_cast<size_t>(i)].data;
    copy_in(codes + i * shape.codes_bytes(), matrix, shape.codes_bytes());
    copy_in(scales + i * shape.scales_bytes(), matrix + shape.codes_bytes(), shape.scales_bytes());
  }
  wait();
  result.codes = codes;
  if (shape.group > 0) result.scales = reinterpret_cast<const cuda::f16*>(scales);
  return result;
}

DeviceBuffer DeviceLoader::vector(const std::string& name, int64_t size) {
  DeviceBuffer buffer = allocate(aligned_bytes(size * 4));
  if (!status_.ok()) return buffer;
  const std::vector<float> values = loader_.vector(name, size);
  copy_in(buffer.data(), reinterpret_cast<const std::byte*>(values.data()), size * 4);
  wait();
  return buffer;
}

DeviceBuffer DeviceLoader::rows_bf16(const std::string& name, int64_t rows, int64_t cols) {
  DeviceBuffer buffer = allocate(aligned_bytes(rows * cols * 2));
  if (!status_.ok()) return buffer;
  Buffer host(static_cast<size_t>(rows * cols * 2));
  loader_.fill(host, [&] {
    std::vector<float> row(static_cast<size_t>(cols));
    for (int64_t i = 0; i < rows; ++i) {
      loader_.checkpoint().read_rows(name, i, 1, row.data());
      std::transform(row.begin(), row.end(), host.as<uint16_t>() + i * cols, f32_to_bf16);
    }
  });
  copy_in(buffer.data(), host.data(), rows * cols * 2);
  wait();
  return buffer;
}

}  // namespace sluice
