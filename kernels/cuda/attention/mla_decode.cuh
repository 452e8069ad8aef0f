// Latent attention of generated tokens: every position that a row sees.
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/mla_pass.cuh"

namespace sluice::cuda {

void mla_decode(const MlaDecodeParams& params, const MlaConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.max_queries >= 1 && params.max_queries <= 8, params.max_queries);
  run_mla(params, config, params.sequences, params.max_queries * params.heads, stream);
}

}  // namespace sluice::cuda
