// What the stages of latent_attention_absorbed.cc share: the plan of a call and the one tile step that depends on the
// cache's type. Scratch memory only; lives for one call.
#pragma once

#include "kernels/cpu/carver.h"
#include "kernels/cpu/latent_cache.h"
#include "kernels/cpu/latent_code_page.h"
#include "kernels/cpu/running_softmax.h"
#include "kernels/cpu/simd.h"

namespace sluice::cpu::SLUICE_ISA {

namespace absorbed {

// Of an f32 or bf16 cache. 4 tiles: at 16 heads x 576 about 9 Mflop, some 50 us of one core; far above the cost of a hand-over and of merging a
// partition's latents (about 1 us), small enough that two threads share a context of 257.
constexpr int32_t kPartitionKeys = 4 * kTileKeys;
// Of an int8 cache, whose tiles take a third of the time: two blocks of four pages, each of which shares one softmax.
constexpr int32_t kBlockKeys = 4 * kTileKeys;
constexpr int32_t kCodePartitionKeys = 2 * kBlockKeys;

#if defined(__AMX_BF16__)
constexpr bool kWholePartitions = true;  // bf16 partitions are softened as a whole: latent_attention_absorbed_amx.cc
#else
constexpr bool kWholePartitions = false;
#endif
constexpr int32_t kScoreKeys = kWholePartitions ? kPartitionKeys : kTileKeys;
constexpr int64_t kSumDims = 64;  // that are summed at a time

struct Row {
  const SequenceSpan* span;
  int32_t position;
  int64_t batch_row;
  int64_t first_partition;  // index among the partitions of all rows
};

// Rows whose absorbed queries a thread holds in f32 before they become codes: 64 KiB, as K_h itself.
constexpr int64_t kQueryRows = 32;

// Bytes that a group's codes are padded to, with zeros (query) or what lies behind them (page).
inline int64_t group_bytes(int64_t size) { return (size + 63) / 64 * 64; }

// Shapes and memory that all stages use; heads are padded to whole lanes.
struct Plan {
  const LatentAttentionArgs& args;
  int64_t width;        // kv_lora_rank + rope_dim
  int64_t head_panels;  // ceil(heads / 16)
  int num_threads;
  LatentCodes codes;    // of an int8 cache
  int64_t num_rows = 0;
  int64_t num_partitions = 0;

  Row* rows = nullptr;           // [num_rows]
  std::byte* queries = nullptr;  // [num_rows][padded_heads][head_bytes] in the cache's type
  float* peaks = nullptr;        // [num_partitions][padded_heads]
  float* sums = nullptr;         // [num_partitions][padded_heads]
  float* latents = nullptr;      // [num_partitions][heads][latent_stride]
  std::byte* tiles = nullptr;    // [threads] times tile_bytes: a TileMemory each
  size_t tile_bytes = 0;

  int64_t padded_heads() const { return head_panels * kLanes; }
  bool is_bf16() const { return args.cache.dtype == DType::kBF16; }
  bool is_int8() const { return args.cache.dtype == DType::kI8; }
  int32_t partition_keys() const { return is_int8() ? kCodePartitionKeys : kPartitionKeys; }
  int64_t partitions_of(int32_t position) const { return position / partition_keys() + 1; }
  // One head's query: width values, or codes, scales [groups] and starts [groups].
  int64_t head_bytes() const {
    if (is_int8()) return query_code_bytes() + int64_t{8} * codes.num_groups();
    return width * (is_bf16() ? 2 : 4);
  }
  int64_t query_code_bytes() const {
    int64_t bytes = 0;
    for (int32_t g = 0; g < codes.num_groups(); ++g) bytes += group_bytes(codes.begin(g + 1) - codes.begin(g));
    return bytes;
  }
  int64_t query_bytes() const { return padded_heads() * head_bytes(); }
  int64_t quantized_bytes() const;
  // One head's summed latents; of an int8 cache in the order of ordered_latents().
  int64_t latent_stride() const { return is_int8() ? group_bytes(args.kv_lora_rank) : args.kv_lora_rank; }
  int64_t score_keys() const { return is_int8() ? kBlockKeys : kScoreKeys; }
  int64_t value_stride() const { return group_bytes(width); }
  int64_t latent_size() const { return args.heads * latent_stride(); }
};

// Running softmax and sums of one partition, all heads.
struct Accumulators {
  float* peaks;    // [padded_heads]
  float* sums;     // [padded_heads]
  float* latents;  // [heads][latent_stride]
};

// One thread's memory: quantised rows for the projections, the row's queries with heads in lanes, and a tile's
// probabilities on their way from lanes of heads to rows of heads.
struct TileMemory {
  std::byte* rows;     // quantised
  std::byte* queries;  // f32 [head_panels][width][16], bf16 in pairs [head_panels][width / 2][16][2], or int8
  float* scores;       // [score_keys][padded_heads]
  std::byte* weights;  // [padded_heads][score_keys] in the cache's type
  float* alphas;       // [padded_heads]
  float* values;       // [kQueryRows][value_stride] a head's queries, or its latents in order (int8)
  // Of an int8 cache, the block's weights for one group of latents (`weights` are [padded_heads][256]), 64 of them.
  float* weight_scales;  // [padded_heads]
  int8_t* quads;         // [4 panels][64 quads of keys][16 latents][4 keys]
  uint16_t* pairs;     // whole partitions: [kSumDims / 16][kScoreKeys / 2][16][2] entries by pairs of keys
  float* product;      // whole partitions: [16 heads][kSumDims]

  TileMemory(Carver& carver, const Plan& plan)
      : rows(carver.take<std::byte>(plan.quantized_bytes())),
        queries(carver.take<std::byte>(plan.query_bytes())),
        scores(carver.take<float>(plan.score_keys() * plan.padded_heads())),
        weights(carver.take<std::byte>(plan.score_keys() * plan.padded_heads() * (plan.is_bf16() ? 2 : 4))),
        alphas(carver.take<float>(plan.padded_heads())),
        values(carver.take<float>(plan.is_int8() ? kQueryRows * plan.value_stride() : 0)),
        weight_scales(carver.take<float>(plan.is_int8() ? plan.padded_heads() : 0)),
        quads(carver.take<int8_t>(plan.is_int8() ? 64 * kBlockKeys : 0)),
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
// Folds `count` entries of the first pages; those behind them are the row's next, which are fetched meanwhile.
void attend_block_int8(const Plan& plan, std::span<const PageId> pages, int32_t count, const TileMemory& memory,
                       const Accumulators& into);

// One head's query [width], in f32 -> head_bytes() at `out`.
void quantize_query(const Plan& plan, const float* query, std::byte* out);
// Undoes the order of lanes that attend_block_int8 sums in, `count` latents.
void ordered_latents(const float* lanes, int64_t count, float* out);

}  // namespace absorbed

}  // namespace sluice::cpu::SLUICE_ISA
