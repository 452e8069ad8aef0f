// cuda_bench CSV: the kernels and the engine on the first CUDA device. Run by ./check gpu, after the kernels have been
// proven there.
#include "benchmarks/cuda/cells.h"
#include "gpu/cuda_device.h"
#include "gpu/cuda_runtime.h"
#include "tests/support/source_file.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FILE.csv\n", argv[0]);
    return 2;
  }
  const auto device = sluice::CudaDevice::open(sluice::cuda_runtime(), 0);
  if (!device.ok()) {
    std::fprintf(stderr, "%s\n", device.status().to_string().c_str());
    return 1;
  }
  std::FILE* csv = std::fopen(argv[1], "w");
  if (!csv) {
    std::perror(argv[1]);
    return 1;
  }
  {
    sluice::CudaBench bench(**device, csv);
    sluice::bench_products(bench);
    sluice::bench_attention(bench);
    sluice::bench_engine(bench, sluice::source_file("configs/shapes/mini"));
  }
  return std::fclose(csv) == 0 ? 0 : 1;
}
