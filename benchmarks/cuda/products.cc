// Dense and grouped products, f32, bf16 and int4 side by side; f32 and the matrix rate are cuBLAS's.
#if defined(SLUICE_CUBLAS)
#include <cublas_v2.h>
#endif

#include "benchmarks/cuda/cells.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/plan.h"

namespace sluice {

namespace {

struct Shape {
  int32_t n, k, experts, tokens_per_expert;

  int32_t rows() const { return experts * tokens_per_expert; }
  double flops() const { return 2.0 * rows() * n * k; }
  std::string text() const {
    return experts == 1 ? fmt::format("{}x{} rows {}", n, k, rows())
                        : fmt::format("{}x{} experts {} each {}", n, k, experts, tokens_per_expert);
  }
};

constexpr int32_t kGroup = 128;
constexpr int kMaxCopies = 64;

double weight_bytes(const Shape& shape, bool int4) {
  const double values = double{1} * shape.experts * shape.n * shape.k;
  return int4 ? values / 2 + values / kGroup * 2 : values * 2;
}

void run_ours(CudaBench& bench, const Shape& shape, bool int4) {
  const auto one = static_cast<int64_t>(weight_bytes(shape, int4));
  const int copies = static_cast<int>(std::clamp<int64_t>(kRotatedBytes / one, 1, kMaxCopies));
  const int64_t codes = int64_t{shape.experts} * shape.n * shape.k / (int4 ? 2 : 1) * (int4 ? 1 : 2);
  const int64_t scales = int4 ? int64_t{shape.experts} * shape.n * (shape.k / kGroup) * 2 : 0;
  const DeviceBuffer weights = bench.random(codes * copies), scale_memory = bench.random(scales * copies);
  const DeviceBuffer x = bench.random(int64_t{shape.rows()} * shape.k * 2);
  const DeviceBuffer y = bench.zeros(int64_t{shape.rows()} * shape.n * 2);
  const int32_t processors = bench.device().properties().multiprocessors;
  const cuda::GemmConfig config = cuda::choose_gemm_config(shape.rows(), shape.experts, shape.n, shape.k,
                                                           int4 ? kGroup : 0, processors, false);
  std::vector<cuda::ExpertTile> tiles;
  for (int32_t expert = 0; expert < shape.experts; ++expert)
    for (int32_t begin = 0; begin < shape.tokens_per_expert; begin += config.tile_rows)
      tiles.push_back({expert, expert * shape.tokens_per_expert + begin,
                       expert * shape.tokens_per_expert +
                           std::min(begin + config.tile_rows, shape.tokens_per_expert)});
  const DeviceBuffer tile_memory = bench.upload(tiles);
  const DeviceBuffer num_tiles = bench.upload(std::vector<int32_t>{static_cast<int32_t>(tiles.size())});
  cuda::GemmParams params{.x = x.as<cuda::bf16>(),
                          .y = y.as<cuda::bf16>(),
                          .rows = shape.rows(),
                          .n = shape.n,
                          .k = shape.k,
                          .group = int4 ? kGroup : 0,
                          .x_stride = shape.k,
                          .y_stride = shape.n};
  if (shape.experts > 1) {
    params.tiles = tile_memory.as<cuda::ExpertTile>();
    params.num_tiles = num_tiles.as<int32_t>();
    params.max_tiles = static_cast<int32_t>(tiles.size());
  }
  const DeviceBuffer workspace = bench.zeros(cuda::workspace_values(params, config) * 4);
  const DeviceBuffer counters = bench.zeros(cuda::num_counters(params, config) * 4);
  params.workspace = workspace.as<float>();
  params.counters = counters.as<int32_t>();
  const double seconds = bench.time(copies, [&](int turn) {
    params.weights = weights.data() + turn * codes;
    params.scales = reinterpret_cast<const cuda::f16*>(scale_memory.data() + turn * scales);
    (int4 ? cuda::int4_gemm : cuda::bf16_gemm)(params, config, bench.device().stream());
  });
  bench.report({shape.experts == 1 ? "gemm" : "grouped_gemm", shape.text(), int4 ? "int4-g128" : "bf16",
                weight_bytes(shape, int4) + double{1} * shape.rows() * (shape.k + shape.n) * 2, shape.flops(), seconds});
}

#if defined(SLUICE_CUBLAS)
void require_cublas(cublasStatus_t status, const char* call) {
  SLUICE_CHECK(status == CUBLAS_STATUS_SUCCESS, "{}: {}", call, cublasGetStatusString(status));
}

// y^T [n, rows] = W [n, k] x^T, all column-major to cuBLAS; an expert after the other.
double time_cublas(CudaBench& bench, cublasHandle_t handle, const Shape& shape, bool f32) {
  const int64_t value = f32 ? 4 : 2, one = int64_t{shape.experts} * shape.n * shape.k * value;
  const int copies = static_cast<int>(std::clamp<int64_t>(kRotatedBytes / one, 1, kMaxCopies));
  const DeviceBuffer weights = bench.random(one * copies), x = bench.random(int64_t{shape.rows()} * shape.k * value),
                     y = bench.zeros(int64_t{shape.rows()} * shape.n * value);
  const cudaDataType_t type = f32 ? CUDA_R_32F : CUDA_R_16BF;
  const float alpha = 1, beta = 0;
  return bench.time(copies, [&](int turn) {
    for (int32_t expert = 0; expert < shape.experts; ++expert) {
      const int64_t row = int64_t{expert} * shape.tokens_per_expert;
      require_cublas(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, shape.n, shape.tokens_per_expert, shape.k, &alpha,
                                  weights.data() + turn * one + int64_t{expert} * shape.n * shape.k * value, type,
                                  shape.k, x.data() + row * shape.k * value, type, shape.k, &beta,
                                  y.data() + row * shape.n * value, type, shape.n, CUBLAS_COMPUTE_32F,
                                  CUBLAS_GEMM_DEFAULT),
                     "cublasGemmEx");
    }
  });
}
#endif

}  // namespace

void bench_products(CudaBench& bench) {
  const Shape square{8192, 8192, 1, 8192};
#if defined(SLUICE_CUBLAS)
  cublasHandle_t handle = nullptr;
  require_cublas(cublasCreate(&handle), "cublasCreate");
  require_cublas(cublasSetStream(handle, bench.device().stream()), "cublasSetStream");
  const DeviceBuffer workspace = bench.zeros(int64_t{64} << 20);  // its own may not be allocated in a capture
  require_cublas(cublasSetWorkspace(handle, workspace.data(), static_cast<size_t>(workspace.bytes())),
                 "cublasSetWorkspace");
  const double seconds = time_cublas(bench, handle, square, false);
  bench.set_matrix_rate(square.flops() / seconds);
  bench.report({"cublas", square.text(), "bf16", 0, square.flops(), seconds});
#else
  std::printf("cuBLAS was not found: no f32, and the matrix rate is not measured\n");
#endif
  std::vector<Shape> shapes;
  for (const int32_t rows : {1, 8, 64, 4096}) shapes.push_back({2048, 2048, 1, rows});
  for (const int32_t rows : {1, 64, 4096}) shapes.push_back({7168, 2048, 1, rows});
  for (const int32_t each : {1, 4, 16, 64}) shapes.push_back({2816, 2048, 64, each});  // lite, gate and up
  for (const int32_t each : {1, 4, 16}) shapes.push_back({2048, 1408, 64, each});      // lite, down
  for (const int32_t each : {1, 16}) shapes.push_back({4096, 7168, 32, each});         // V3, an eighth of its experts
  for (const Shape& shape : shapes) {
#if defined(SLUICE_CUBLAS)
    for (const bool f32 : {true, false})
      bench.report({"cublas", shape.text(), f32 ? "f32" : "bf16",
                    (double{1} * shape.experts * shape.n * shape.k + double{1} * shape.rows() * (shape.n + shape.k)) *
                        (f32 ? 4 : 2),
                    shape.flops(), time_cublas(bench, handle, shape, f32)});
#endif
    for (const bool int4 : {false, true}) run_ours(bench, shape, int4);
  }
#if defined(SLUICE_CUBLAS)
  require_cublas(cublasDestroy(handle), "cublasDestroy");
#endif
}

}  // namespace sluice
