// The oracle: every op as its formula reads, in plain loops, one thread. Correct before anything else; nobody serves
// with it. Weights are row-major; sums that the product path also makes in one ascending chain are made the same way
// with fma, so that those paths can be compared bit by bit; everything else accumulates in double.
#pragma once

#include "sluice/ops.h"

namespace sluice::ref {

bool supports(WeightFormat format);
int64_t packed_bytes(WeightFormat format, int64_t rows, int64_t cols);
void pack(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source, std::byte* packed);
float weight_at(const Weight& weight, int64_t row, int64_t col);

void embed(const EmbedArgs&, OpContext&);
void rms_norm(const RmsNormArgs&, OpContext&);
void matmul(const MatmulArgs&, OpContext&);
void grouped_matmul(const GroupedMatmulArgs&, OpContext&);
void silu_mul(const SiluMulArgs&, OpContext&);
void route(const RouteArgs&, OpContext&);
void permute(const PermuteArgs&, OpContext&);
void combine(const CombineArgs&, OpContext&);
void rope(const RopeArgs&, OpContext&);
void latent_write(const LatentWriteArgs&, OpContext&);
void latent_attention_expanded(const LatentAttentionArgs&, OpContext&);
void latent_attention_absorbed(const LatentAttentionArgs&, OpContext&);
void index_write(const IndexWriteArgs&, OpContext&);
void index_select(const IndexSelectArgs&, OpContext&);
void sparse_attention(const SparseAttentionArgs&, OpContext&);
void scatter_rows(const ScatterRowsArgs&, OpContext&);
void hyper_weights(const HyperWeightsArgs&, OpContext&);
void hyper_collapse(const HyperCollapseArgs&, OpContext&);
void hyper_expand(const HyperExpandArgs&, OpContext&);
void window_write(const WindowWriteArgs&, OpContext&);
void compress(const CompressArgs&, OpContext&);
void window_attention(const WindowAttentionArgs&, OpContext&);
void block_means(const BlockMeansArgs&, OpContext&);
void block_select(const BlockSelectArgs&, OpContext&);
void key_value_write(const KeyValueWriteArgs&, OpContext&);
void grouped_attention_prompt(const GroupedAttentionArgs&, OpContext&);
void grouped_attention_generated(const GroupedAttentionArgs&, OpContext&);

}  // namespace sluice::ref
