// What the stages of latent_attention_absorbed.cc share: the plan of a call and the one tile step that depends on the
// cache's type. Scratch memory only; lives for one call.
#pragma once

#include "kernels/cpu/carver.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/running_softmax.h"
#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

namespace absorbed {

// 4 tiles: at 16 heads x 576 about 9 Mflop, some 50 us of one core; far above the cost of a hand-over and of merging a
// partition's latents (about 1 us), small enough that two threads share a context of 257.
constexpr int32_t kPartitionKeys = 4 * kTileKeys;

struct Row {
  const SequenceSpan* span;
  int32_t position;
  int64_t batch_row;
  int64_t first_partition;  // index among the partitions of all rows
};

inline int64_t partitions_of(int32_t position) { return position / kPartitionKeys + 1; }

// Shapes and memory that all stages use; heads are padded to whole lanes.
struct Plan {
  const LatentAttentionArgs& args;
  int64_t width;        // kv_lora_rank + rope_dim
  int64_t head_panels;  // ceil(heads / 16)
  int num_threads = 1;
  int64_t num_rows = 0;
  int64_t num_partitions = 0;

  Row* rows = nullptr;           // [num_rows]
  std::byte* queries = nullptr;  // [num_rows][padded_heads][width] in the cache's type
  float* peaks = nullptr;        // [num_partitions][padded_heads]
  float* sums = nullptr;         // [num_partitions][padded_heads]
  float* latents = nullptr;      // [num_partitions][heads][kv_lora_rank]
  std::byte* tiles = nullptr;    // [threads] times tile_bytes: a TileMemory each
  size_t tile_bytes = 0;

  int64_t padded_heads() const { return head_panels * kLanes; }
  bool is_bf16() const { return args.cache.dtype == DType::kBF16; }
  int64_t head_bytes() const { return width * (is_bf16() ? 2 : 4); }  // one head's query
  int64_t query_bytes() const { return padded_heads() * head_bytes(); }
  int64_t quantized_bytes() const;
  int64_t latent_size() const { return int64_t{args.heads} * args.kv_lora_rank; }
};

// Running softmax and sums of one partition, all heads.
struct Accumulators {
  float* peaks;    // [padded_heads]
  float* sums;     // [padded_heads]
  float* latents;  // [heads][kv_lora_rank]
};

#if defined(__AMX_BF16__)
constexpr bool kWholePartitions = true;  // bf16 partitions are softened as a whole: latent_attention_absorbed_amx.cc
#else
constexpr bool kWholePartitions = false;
#endif
constexpr int32_t kScoreKeys = kWholePartitions ? kPartitionKeys : kTileKeys;
constexpr int64_t kSumDims = 64;  // that are summed at a time

// One thread's memory: quantised rows for the projections, the row's queries with heads in lanes, and a tile's
// probabilities on their way from lanes of heads to rows of heads.
struct TileMemory {
  std::byte* rows;     // quantised
  std::byte* queries;  // f32 [head_panels][width][16], or bf16 in pairs [head_panels][width / 2][16][2]
  float* scores;       // [kScoreKeys][padded_heads]
  std::byte* weights;  // [padded_heads][kScoreKeys] in the cache's type
  float* alphas;       // [padded_heads]
  uint16_t* pairs;     // whole partitions: [kSumDims / 16][kScoreKeys / 2][16][2] entries by pairs of keys
  float* product;      // whole partitions: [16 heads][kSumDims]

  TileMemory(Carver& carver, const Plan& plan)
      : rows(carver.take<std::byte>(plan.quantized_bytes())),
        queries(carver.take<std::byte>(plan.query_bytes())),
        scores(carver.take<float>(kScoreKeys * plan.padded_heads())),
        weights(carver.take<std::byte>(kScoreKeys * plan.padded_heads() * (plan.is_bf16() ? 2 : 4))),
        alphas(carver.take<float>(plan.padded_heads())),
        pairs(carver.take<uint16_t>(kWholePartitions ? kSumDims * kScoreKeys : 0)),
        product(carver.take<float>(kWholePartitions ? kLanes * kSumDims : 0)) {}
};

// scores -> probabilities in place, heads in lanes; updates peaks and sums and leaves the factors of what was summed
// before in alphas.
void soften_tile(float* scores, int32_t count, int64_t head_panels, const Accumulators& into, float* alphas);

// Folds `count` entries of a page into the accumulators.
void attend_tile_f32(const Plan& plan, PageId page, int32_t count, const TileMemory& memory, const Accumulators& into);
// Where kWholePartitions: sets the accumulators to `count` entries of the first pages; those behind them are the row's
// next, which are fetched meanwhile.
void attend_partition_bf16(const Plan& plan, std::span<const PageId> pages, int32_t count, const TileMemory& memory,
                           const Accumulators& into);
// `next` is the page to come, or kNoPage: its rows are fetched while this one is worked on.
void attend_tile_bf16(const Plan& plan, PageId page, PageId next, int32_t count, const TileMemory& memory,
                      const Accumulators& into);

}  // namespace absorbed

}  // namespace sluice::cpu::SLUICE_ISA
