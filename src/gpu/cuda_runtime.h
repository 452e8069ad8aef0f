// CUDA's runtime as a table; only in builds that found nvcc.
#pragma once

#include "gpu/cuda_api.h"

namespace sluice {

const CudaApi& cuda_runtime();

}  // namespace sluice
