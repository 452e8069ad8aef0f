// Row-wise kernels on bf16 activations: parameters and launchers. Arithmetic in f32, one rounding at the end. Memory of
// the device, 16-byte aligned, and so is every row: widths and strides are multiples of 8 values. The formulas are
// those of the ops of the same name in sluice/ops.h.
#pragma once

#include <cstdint>

#include "sluice/rope_layout.h"

#include "kernels/cuda/types.h"

namespace sluice::cuda {

// y = w * (x / sqrt(mean(x^2) + eps)). With a residual: first residual += x, rounded to bf16, and that is normalised,
// so that what is normalised is what the next layer finds.
struct RmsNormParams {
  const bf16* x = nullptr;           // [*, x_stride], the first cols of each row
  const int32_t* row_ids = nullptr;  // [rows] rows of x to take, or null for 0, 1, 2, ...
  bf16* residual = nullptr;          // [rows, cols] or null
  const float* weight = nullptr;     // [cols]
  bf16* y = nullptr;                 // [rows, cols]
  int32_t rows = 0, cols = 0, x_stride = 0;
  float eps = 0;
};
constexpr int kMaxNormCols = 16384;
void rms_norm(const RmsNormParams& params, Stream stream);

// Rotates dims [offset, offset + dim) of each head, in place or into y; dim and offsets are multiples of 16 and 8.
struct RopeParams {
  bf16* x = nullptr;               // [rows, heads, head_dim]
  bf16* y = nullptr;               // [rows, heads, y_head_dim], the rotated values at y_offset; null: in place
  const float* cos_sin = nullptr;  // [rows, dim]: dim/2 cosines, then dim/2 sines
  int32_t rows = 0, heads = 1, head_dim = 0, offset = 0, dim = 0;
  int32_t y_head_dim = 0, y_offset = 0;
  RopeLayout layout = RopeLayout::kPair;
};
void rope(const RopeParams& params, Stream stream);

// kv_a output -> cache entry: RMSNorm of the first kv_lora_rank values, rotation of the rest. The entry of row r is
// slot slots[r] = page * 64 + place in the page; a negative slot writes nothing (padding rows of a captured graph).
struct LatentWriteParams {
  const bf16* z = nullptr;             // [rows, z_stride], kv_lora_rank + rope_dim of each
  const float* norm_weight = nullptr;  // [kv_lora_rank]
  const float* cos_sin = nullptr;      // [rows, rope_dim]
  const int64_t* slots = nullptr;      // [rows]
  bf16* cache = nullptr;               // one layer's slice; entries of kv_lora_rank + rope_dim values
  int64_t page_stride = 0;             // values from page to page
  int32_t rows = 0, z_stride = 0, kv_lora_rank = 0, rope_dim = 0;
  float eps = 0;
  RopeLayout layout = RopeLayout::kPair;
};
constexpr int kMaxLatent = 1024;
void latent_write(const LatentWriteParams& params, Stream stream);

// y = silu(gate) * up; with a limit gate is min(gate, limit) and up is clamped to [-limit, limit] first
struct SiluMulParams {
  const bf16* gate_up = nullptr;  // [rows, 2 * width]: gate, then up
  bf16* y = nullptr;              // [rows, width]
  int32_t rows = 0, width = 0;
  float limit = 0;  // 0: none
};
void silu_mul(const SiluMulParams& params, Stream stream);

// y[i, :] = table[ids[i], :]: embedding, and the rows whose logits are wanted.
struct GatherParams {
  const bf16* table = nullptr;   // [*, cols]
  const int32_t* ids = nullptr;  // [rows]
  bf16* y = nullptr;             // [rows, cols]
  int32_t rows = 0, cols = 0;
};
void gather_rows(const GatherParams& params, Stream stream);

// Page to[i] of the target = page from[i] of the source: copy on write within a pool, and the swap of pages that lie
// scattered in a pool to and from a staging buffer, whose transfer is then one copy. No page is both read and written.
struct PageCopyParams {
  const void* source = nullptr;
  void* target = nullptr;
  const int32_t* from = nullptr;  // [pages], or null for 0, 1, 2, ...
  const int32_t* to = nullptr;    // the same
  int64_t source_stride = 0, target_stride = 0;  // bytes from page to page
  int64_t page_bytes = 0;                        // all a multiple of 16
  int32_t pages = 0;
};
void page_copy(const PageCopyParams& params, Stream stream);

}  // namespace sluice::cuda
