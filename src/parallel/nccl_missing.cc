// Stands for nccl_library.cc in a build that found no nccl.h, or no CUDA headers, which that one includes.
#include "parallel/nccl_library.h"

namespace sluice {

Result<const NcclApi*> nccl_library() {
  return failed_precondition("nccl: cmake found no nccl.h beside a CUDA toolkit when this was built (libnccl-dev)");
}

}  // namespace sluice
