// Activations of a step on the device, sized once for the largest step, in one block: bf16 but for what routing and
// softmax need in f32. Pointers only; whoever allocates the block owns it.
#pragma once

#include "gpu/device_memory.h"
#include "gpu/products.h"
#include "kernels/cuda/attention/mla.h"
#include "kernels/cuda/moe/moe.h"
#include "model/config.h"

namespace sluice {

// What the largest step may ask for.
struct StepLimits {
  int32_t max_rows = 0;       // tokens of a step
  int32_t context_length = 0;  // positions of a sequence
  int32_t multiprocessors = 0;
  int32_t shared_bytes_of_block = 0;
};

// Rows of logits made at once: a decode step's usual batch, and 33 MB at a vocabulary of 129,280.
constexpr int32_t kGpuLogitsRows = 64;

struct Workspace {
  Workspace(const ModelConfig& config, WeightFormat weights, const StepLimits& limits, DeviceCarver& carver);

  cuda::bf16* x = nullptr;       // [rows, hidden] the residual stream
  cuda::bf16* normed = nullptr;  // [rows, hidden]
  cuda::bf16* delta = nullptr;   // [rows, hidden] what a block adds to the residual stream

  cuda::bf16* query_latent = nullptr;  // [rows, q_lora_rank]
  cuda::bf16* query = nullptr;         // [rows, heads, nope + rope]
  cuda::bf16* kv_latent = nullptr;     // [rows, kv_lora_rank + rope]
  cuda::bf16* absorbed = nullptr;      // [rows, heads, kv_lora_rank + rope]
  cuda::bf16* mixed = nullptr;         // [rows, heads, kv_lora_rank]
  cuda::bf16* attended = nullptr;      // [rows, heads, v]
  float* partial = nullptr;            // [attention_values]: of a chunk's rows, heads and splits, latents
  float* partial_lse = nullptr;

  cuda::bf16* gate_up = nullptr;    // of the dense block, the shared experts, or all routed rows
  cuda::bf16* activated = nullptr;
  cuda::bf16* expert_out = nullptr;  // [rows * top_k, hidden]
  float* router_logits = nullptr;    // [rows, experts]
  int32_t* experts = nullptr;        // [moe layers, rows, top_k]: kept for the observer
  float* expert_weights = nullptr;   // [moe layers, rows, top_k]
  int32_t* offsets = nullptr;        // [experts + 1]
  int32_t* row_ids = nullptr;        // [rows * top_k]
  int32_t* places = nullptr;         // [rows, top_k]
  cuda::ExpertTile* tiles = nullptr;
  int32_t* num_tiles = nullptr;      // [1]

  cuda::bf16* outputs = nullptr;        // [rows, hidden] of the rows that were asked for
  cuda::bf16* hidden_normed = nullptr;  // [kGpuLogitsRows, hidden]
  float* logits = nullptr;              // [kGpuLogitsRows, vocab]

  Products::Needs products;  // room of the two below
  float* partial_sums = nullptr;
  int32_t* counters = nullptr;  // zeros before the first product and after each

  cuda::MlaConfig mla;
  int64_t attention_rows_splits = 0;  // (row, split) pairs of one chunk of attention
};

// Query tokens of one sequence that a block of attention takes together: as many as fill its 32 rows with heads.
int32_t queries_of_piece(int32_t heads);
int32_t moe_layers(const ModelConfig& config);

}  // namespace sluice
