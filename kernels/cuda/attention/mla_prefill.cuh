// Causal attention of a chunk of prompt tokens over expanded keys and values, online softmax in registers.
//
//   block    (tile of query tokens, head, sequence); 16 query tokens a warp, their operand A in registers throughout
//   tile     64 positions = a page: keys [64, nope + rope] and values [64, v], double-buffered by cp.async; rows padded
//            by 16 bytes: ldmatrix meets 8 banks. 84 KB for V3, so that sm_89 holds it too
//   scores   16 rows x 64 positions a warp: accumulators of the first product are, packed, operand A of the second
//
// Tiles start at absolute position 0 and a position that a row does not see adds exactly nothing (exp2(-inf) = 0, and
// the running maximum stays): a row's bits depend neither on its chunk nor on its tile.
#include "kernels/cuda/attention/mla_prefill.h"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/precondition.h"

namespace sluice::cuda {

constexpr int kKeyTile = kPageTokens;
constexpr int kWarpQueries = 16;

template <int kLatentValues, int kRopeValues, int kNopeValues, int kVValues>
struct PrefillShape {
  static constexpr int kLatent = kLatentValues, kRope = kRopeValues, kNope = kNopeValues, kV = kVValues;
  static constexpr int kKey = kNope + kRope, kEntry = kLatent + kRope, kExpanded = kNope + kV;
};

template <typename Shape>
struct PrefillShared {
  static constexpr int kKeyStride = Shape::kKey + kVecBf16, kValueStride = Shape::kV + kVecBf16;
  static_assert(kKeyStride * sizeof(bf16) % 32 == 16 && kValueStride * sizeof(bf16) % 32 == 16,
                "8 rows in a row meet 8 different banks");
  struct Stage {
    alignas(16) bf16 keys[kKeyTile][kKeyStride];
    alignas(16) bf16 values[kKeyTile][kValueStride];
  };
  Stage stages[2];
};

// What a block attends with: tokens [first_token, + num_rows), whose first is at position `position`, over the
// sequence's positions [begin, end) of the window.
struct PrefillBlock {
  int32_t head, first_token, num_rows, position, begin, end, key_row;
  bool closes;  // the sequence ends in this window
};

template <typename Shape>
__device__ __forceinline__ void load_key_tile(typename PrefillShared<Shape>::Stage& stage,
                                              const MlaPrefillParams& params, const PrefillBlock& block,
                                              int32_t position) {
  const int64_t row_begin = block.key_row + position - block.begin;
  const int64_t row_stride = static_cast<int64_t>(params.heads) * Shape::kExpanded;
  const bf16* expanded = params.keys_values + row_begin * row_stride + block.head * Shape::kExpanded;
  const bf16* entries = params.entries + row_begin * Shape::kEntry + Shape::kLatent;
  const auto copy = [&](bf16* target, int target_stride, const bf16* source, int64_t source_stride, auto vectors) {
    constexpr int kVectors = decltype(vectors)::value;  // of a row
    for (int i = static_cast<int>(threadIdx.x); i < kKeyTile * kVectors; i += static_cast<int>(blockDim.x)) {
      const int row = i / kVectors, column = i % kVectors * kVecBf16;
      const bool valid = position + row < block.end;
      cp_async_16(target + row * target_stride + column, valid ? source + row * source_stride + column : source, valid);
    }
  };
  constexpr int kKeyStride = PrefillShared<Shape>::kKeyStride, kValueStride = PrefillShared<Shape>::kValueStride;
  copy(stage.keys[0], kKeyStride, expanded, row_stride, Constant<Shape::kNope / kVecBf16>{});
  copy(stage.keys[0] + Shape::kNope, kKeyStride, entries, Shape::kEntry, Constant<Shape::kRope / kVecBf16>{});
  copy(stage.values[0], kValueStride, expanded + Shape::kNope, row_stride, Constant<Shape::kV / kVecBf16>{});
}

// A warp's rows: lane l works on rows g and g + 8, g = l / 4, of its 16.
template <typename Shape>
struct PrefillRows {
  uint32_t q[Shape::kKey / 16][4];  // operand A
  float mix[Shape::kV / 8][4];      // unnormalised
  float peak[2];                    // of scores times scale times log2(e)
  float sum[2];                     // of the positions that this lane has seen
  int32_t visible[2];

  __device__ __forceinline__ void begin(const MlaPrefillParams& params, const PrefillBlock& block) {
    const int g = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = warp_id() * kWarpQueries + g + upper * 8;
      const bool valid = row < block.num_rows;
      visible[upper] = valid ? block.position + row + 1 : 0;
      peak[upper] = -INFINITY;
      sum[upper] = 0;
      const bf16* source =
          params.q +
          (static_cast<int64_t>(block.first_token + (valid ? row : 0)) * params.heads + block.head) * Shape::kKey;
#pragma unroll
      for (int k = 0; k < Shape::kKey / 16; ++k)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          q[k][upper + i * 2] = *reinterpret_cast<const uint32_t*>(source + k * 16 + i * 8 + t * 2);
    }
#pragma unroll
    for (int tile = 0; tile < Shape::kV / 8; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) mix[tile][i] = 0;
  }

  __device__ __forceinline__ void score(const bf16 (*keys)[PrefillShared<Shape>::kKeyStride],
                                        float (&scores)[kKeyTile / 8][4]) const {
    const int matrix = lane_id() / 8, row = lane_id() % 8;
#pragma unroll
    for (int tile = 0; tile < kKeyTile / 8; ++tile)
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[tile][i] = 0;
#pragma unroll
    for (int k = 0; k < Shape::kKey / 16; ++k) {
#pragma unroll
      for (int tile = 0; tile < kKeyTile / 8; tile += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, &keys[tile * 8 + matrix / 2 * 8 + row][k * 16 + matrix % 2 * 8]);
        mma_m16n8k16_bf16(scores[tile], q[k], {b[0], b[1]});
        mma_m16n8k16_bf16(scores[tile + 1], q[k], {b[2], b[3]});
      }
    }
  }

  // Scores of the tile at `position` -> probabilities, unnormalised; what was summed so far shrinks to the new maximum.
  __device__ __forceinline__ void soften(float (&scores)[kKeyTile / 8][4], float scale, int32_t position) {
    const int t = lane_id() % 4;
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int32_t limit = visible[upper] - position;  // columns below are seen
      float tile_peak = -INFINITY;
#pragma unroll
      for (int tile = 0; tile < kKeyTile / 8; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& s = scores[tile][upper * 2 + i];
          s = tile * 8 + t * 2 + i < limit ? s * scale : -INFINITY;
          tile_peak = max_f32(tile_peak, s);
        }
      tile_peak = max_f32(tile_peak, shuffle_xor(tile_peak, 1));
      tile_peak = max_f32(tile_peak, shuffle_xor(tile_peak, 2));
      const float next = max_f32(peak[upper], tile_peak);
      const float base = next == -INFINITY ? 0 : next;  // nothing visible yet: every exp2 below is 0
      const float shrink = exp2_fast(peak[upper] - base);
      peak[upper] = next;
      sum[upper] *= shrink;
#pragma unroll
      for (int tile = 0; tile < Shape::kV / 8; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) mix[tile][upper * 2 + i] *= shrink;
#pragma unroll
      for (int tile = 0; tile < kKeyTile / 8; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& s = scores[tile][upper * 2 + i];
          sum[upper] += s = exp2_fast(s - base);
        }
    }
  }

  __device__ __forceinline__ void mix_values(const float (&scores)[kKeyTile / 8][4],
                                             const bf16 (*values)[PrefillShared<Shape>::kValueStride]) {
    const int matrix = lane_id() / 8, row = lane_id() % 8;
#pragma unroll
    for (int k = 0; k < kKeyTile / 16; ++k) {
      uint32_t a[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[i] = pack_bf16(scores[2 * k + i / 2][i % 2 * 2], scores[2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int tile = 0; tile < Shape::kV / 8; tile += 2) {
        uint32_t b[4];
        ldmatrix_x4_transposed(b, &values[k * 16 + matrix % 2 * 8 + row][tile * 8 + matrix / 2 * 8]);
        mma_m16n8k16_bf16(mix[tile], a, {b[0], b[1]});
        mma_m16n8k16_bf16(mix[tile + 1], a, {b[2], b[3]});
      }
    }
  }

  // Calls visit(upper, index of the row among [tokens, heads]) for the lane's rows that exist.
  template <typename Visit>
  __device__ __forceinline__ void each_row(const MlaPrefillParams& params, const PrefillBlock& block, Visit&& visit) {
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      const int row = warp_id() * kWarpQueries + lane_id() / 4 + upper * 8;
      if (row < block.num_rows) visit(upper, static_cast<int64_t>(block.first_token + row) * params.heads + block.head);
    }
  }

  static constexpr int kCarryStride = Shape::kV + kPrefillCarry;

  __device__ __forceinline__ void load_carry(const MlaPrefillParams& params, const PrefillBlock& block) {
    const int t = lane_id() % 4;
    each_row(params, block, [&](int upper, int64_t index) {
      const float* source = params.carry + index * kCarryStride;
      peak[upper] = source[Shape::kV + t * 2];
      sum[upper] = source[Shape::kV + t * 2 + 1];
#pragma unroll
      for (int tile = 0; tile < Shape::kV / 8; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) mix[tile][upper * 2 + i] = source[tile * 8 + t * 2 + i];
    });
  }

  __device__ __forceinline__ void store_carry(const MlaPrefillParams& params, const PrefillBlock& block) {
    const int t = lane_id() % 4;
    each_row(params, block, [&](int upper, int64_t index) {
      float* target = params.carry + index * kCarryStride;
      target[Shape::kV + t * 2] = peak[upper];
      target[Shape::kV + t * 2 + 1] = sum[upper];
#pragma unroll
      for (int tile = 0; tile < Shape::kV / 8; ++tile)
#pragma unroll
        for (int i = 0; i < 2; ++i) target[tile * 8 + t * 2 + i] = mix[tile][upper * 2 + i];
    });
  }

  __device__ __forceinline__ void store_out(const MlaPrefillParams& params, const PrefillBlock& block) {
    const int t = lane_id() % 4;
    float inverse[2];
#pragma unroll
    for (int upper = 0; upper < 2; ++upper) {
      float total = sum[upper];
      total += shuffle_xor(total, 1);
      total += shuffle_xor(total, 2);
      inverse[upper] = 1.0f / total;
    }
    each_row(params, block, [&](int upper, int64_t index) {
      bf16* target = params.out + index * Shape::kV + t * 2;
#pragma unroll
      for (int tile = 0; tile < Shape::kV / 8; ++tile)
        *reinterpret_cast<uint32_t*>(target + tile * 8) =
            pack_bf16(mix[tile][upper * 2] * inverse[upper], mix[tile][upper * 2 + 1] * inverse[upper]);
    });
  }
};

template <typename Shape, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) mla_prefill_kernel(const MlaPrefillParams params) {
  constexpr int kRows = kWarps * kWarpQueries;
  constexpr float kLog2E = 1.4426950408889634f;
  auto& shared = dynamic_shared<PrefillShared<Shape>>();
  const auto sequence = static_cast<int32_t>(blockIdx.z);
  const int32_t query_begin = params.query_begin[sequence];
  const int32_t num_queries = params.query_begin[sequence + 1] - query_begin, length = params.lengths[sequence];
  // The last tiles see most; they start first, so that the grid does not end with them.
  const int32_t tile_begin = static_cast<int32_t>(gridDim.x - 1 - blockIdx.x) * kRows;
  if (tile_begin >= num_queries || params.window_begin >= length) return;
  PrefillBlock block;
  block.head = static_cast<int32_t>(blockIdx.y);
  block.first_token = query_begin + tile_begin;
  block.num_rows = num_queries - tile_begin < kRows ? num_queries - tile_begin : kRows;
  block.position = length - num_queries + tile_begin;
  block.begin = params.window_begin;
  block.end = params.window_end < block.position + block.num_rows ? params.window_end  // nobody sees more
                                                                  : block.position + block.num_rows;
  block.key_row = params.key_begin[sequence];
  block.closes = length <= params.window_end;

  const auto load = [&](int32_t position, int stage) {
    if (position < block.end) load_key_tile<Shape>(shared.stages[stage], params, block, position);
    cp_async_commit();
  };
  load(block.begin, 0);
  PrefillRows<Shape> rows;
  rows.begin(params, block);
  if (block.begin > 0) rows.load_carry(params, block);
  for (int32_t position = block.begin, stage = 0; position < block.end; position += kKeyTile, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // the tile is there for all, and nobody reads the other stage any more
    load(position + kKeyTile, stage ^ 1);
    float scores[kKeyTile / 8][4];
    rows.score(shared.stages[stage].keys, scores);
    rows.soften(scores, params.scale * kLog2E, position);
    rows.mix_values(scores, shared.stages[stage].values);
  }
  if (block.closes) {
    rows.store_out(params, block);
  } else {
    rows.store_carry(params, block);
  }
}

template <typename Shape, int kWarps>
void launch_mla_prefill(const MlaPrefillParams& params, Stream stream) {
  static_assert(sizeof(PrefillShared<Shape>) <= 99 * 1024, "the most that a block of sm_89 can have");
  const auto tiles = static_cast<unsigned>(ceil_div(params.max_queries, kWarps * kWarpQueries));
  launch(mla_prefill_kernel<Shape, kWarps>,
         dim3(tiles, static_cast<unsigned>(params.heads), static_cast<unsigned>(params.sequences)),
         dim3(kWarps * kWarp), sizeof(PrefillShared<Shape>), stream, params);
}

template <typename Shape>
void dispatch_query_tile(const MlaPrefillParams& params, const MlaPrefillConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.rope == Shape::kRope && params.nope == Shape::kNope && params.v == Shape::kV,
                      params.latent, params.rope, params.nope, params.v);
  SLUICE_PRECONDITION(config.query_tile == 64 || config.query_tile == 128, config.query_tile);
  if (config.query_tile == 64) return launch_mla_prefill<Shape, 4>(params, stream);
  launch_mla_prefill<Shape, 8>(params, stream);
}

void mla_prefill(const MlaPrefillParams& params, const MlaPrefillConfig& config, Stream stream) {
  SLUICE_PRECONDITION(params.window_begin % kKeyTile == 0 && params.window_end % kKeyTile == 0, params.window_begin,
                      params.window_end);
  SLUICE_PRECONDITION(params.heads >= 1 && params.scale > 0, params.heads);
  switch (params.latent) {
    case 64:
      return dispatch_query_tile<PrefillShape<64, 16, 32, 32>>(params, config, stream);
    case 256:
      return dispatch_query_tile<PrefillShape<256, 32, 64, 64>>(params, config, stream);
    case 512:
      return dispatch_query_tile<PrefillShape<512, 64, 128, 128>>(params, config, stream);
    default:
      SLUICE_PRECONDITION(!"latent is one of 64, 256, 512", params.latent);
  }
}

}  // namespace sluice::cuda
