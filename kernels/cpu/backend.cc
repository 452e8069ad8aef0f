#include "kernels/cpu/backend.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul.h"

namespace sluice::cpu::SLUICE_ISA {

const Backend kBackend{
    .name = SLUICE_ISA_NAME,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .embed = embed,
    .rms_norm = rms_norm,
    .matmul = matmul,
    .grouped_matmul = grouped_matmul,
    .silu_mul = silu_mul,
    .route = route,
    .permute = permute,
    .combine = combine,
    .rope = rope,
    .latent_write = latent_write,
    .latent_attention_expanded = latent_attention_expanded,
    .latent_attention_absorbed = latent_attention_absorbed,
    .index_write = index_write,
    .index_select = index_select,
    .sparse_attention = sparse_attention,
    .scatter_rows = scatter_rows,
    .hyper_weights = hyper_weights,
    .hyper_collapse = hyper_collapse,
    .hyper_expand = hyper_expand,
    .window_write = window_write,
    .compress = compress,
    .window_attention = window_attention,
    .block_means = block_means,
    .block_select = block_select,
    .key_value_write = key_value_write,
    .grouped_attention_prompt = grouped_attention_prompt,
    .grouped_attention_generated = grouped_attention_generated,
};

}  // namespace sluice::cpu::SLUICE_ISA
