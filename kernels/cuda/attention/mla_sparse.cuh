// Latent attention over a list of positions or pages of each token: tokens do not share entries, so each is a block's.
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/mla_pass.cuh"

namespace sluice::cuda {

void mla_sparse(const MlaSparseParams& params, const MlaConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.unit == 1 || params.unit == kPageTokens, params.unit);
  run_mla(params, config, params.tokens, params.heads, stream);
}

}  // namespace sluice::cuda
