// The operations of the model: one argument struct each, with shapes, and the table through which the engine calls a
// backend's kernels. Rows are tokens of the step's batch; f32, row-major, unless said otherwise.
//
// The rule of same bits (DESIGN.md): what a row receives depends on the weights, its tokens, its position and its role
// alone. No kernel may let the number of rows, of threads, or a neighbour change the order of a sum.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sluice/kv_layout.h"
#include "sluice/rope_layout.h"
#include "sluice/scoring_func.h"
#include "sluice/tensor.h"
#include "sluice/thread_team.h"
#include "sluice/types.h"
#include "sluice/weight_format.h"

namespace sluice {

// Memory that kernels share within one call; grows to the largest need and stays. Aligned to 64 bytes.
class Scratch {
 public:
  std::byte* reserve(size_t bytes) {
    if (buffer_.size() < bytes) buffer_ = Buffer(bytes);
    return buffer_.data();
  }
  size_t size() const { return buffer_.size(); }

 private:
  Buffer buffer_;
};

struct OpContext {
  ThreadTeam& team;
  Scratch& scratch;
};

// A weight matrix in the layout that one backend's kernels stream; only that backend reads `data`.
struct Weight {
  WeightFormat format = WeightFormat::kF32;
  int64_t rows = 0;  // outputs
  int64_t cols = 0;  // inputs
  const std::byte* data = nullptr;
};

// x[i, :] = table[tokens[i], :]
struct EmbedArgs {
  std::span<const TokenId> tokens;  // [rows]
  TensorView table;                 // [vocab, hidden] F32 or BF16
  float* x = nullptr;               // [rows, hidden]
};

// y = w * (x / sqrt(mean(x^2) + eps)); the mean in f32 over the row (arXiv:1910.07467).
struct RmsNormArgs {
  const float* x = nullptr;       // [rows, x_stride], the first cols of each row
  const int32_t* row_ids = nullptr;  // [rows] rows of x to take, or null for 0, 1, 2, ...
  const float* weight = nullptr;  // [cols], or null for ones
  float* y = nullptr;             // [rows, cols]
  int64_t rows = 0, cols = 0, x_stride = 0;
  float eps = 0;
};

// y = x W^T, or y += x W^T. One accumulator per output, terms in ascending k.
struct MatmulArgs {
  const float* x = nullptr;  // [rows, x_stride], the first weight.cols of each row
  int64_t rows = 0;
  int64_t x_stride = 0;
  Weight weight;             // [outputs, inputs]
  float* y = nullptr;        // [rows, y_stride], the first weight.rows of each row
  int64_t y_stride = 0;
  bool add = false;          // y += instead of y =
};

// One matmul per expert over rows that are sorted by expert. An expert's weights are read once for all its rows.
//   expert e: rows [offsets[e], offsets[e+1]) of y; row r of y comes from row row_ids[r] of x (or r if null)
struct GroupedMatmulArgs {
  const float* x = nullptr;              // [*, x_stride]
  const int32_t* row_ids = nullptr;      // [offsets[num_experts]]
  int64_t x_stride = 0;
  std::span<const int32_t> offsets;      // [num_experts + 1], ascending
  std::span<const Weight> weights;       // [num_experts], all of one shape and format
  float* y = nullptr;                    // [offsets[num_experts], y_stride]
  int64_t y_stride = 0;
};

// y = silu(gate) * up, silu(z) = z / (1 + exp(-z)) (arXiv:2002.05202). With a limit (DeepSeek-V4) gate is min(gate, limit)
// and up is clamped to [-limit, limit] first.
struct SiluMulArgs {
  const float* gate_up = nullptr;  // [rows, 2 * width]: gate, then up
  float* y = nullptr;              // [rows, width]
  int64_t rows = 0, width = 0;
  float limit = 0;                 // 0: none
};

// Router logits -> experts and weights (arXiv:2405.04434 for V2, arXiv:2412.19437 for V3, transformers' deepseek_v4).
//   softmax: s = softmax(logits), groups scored by their best expert
//   sigmoid: s = sigmoid(logits); chosen by s + bias, groups scored by the sum of their two best; weighted by s alone
//   sqrt of softplus: s = sqrt(log(1 + exp(logits))), the rest as with sigmoid. Below -87.3 s is 0.
// Ties go to the lower expert id. Experts come by falling choice score. A hash-routed layer (V4) does not choose: its
// experts are the token's row of a table, in that order, weighted by s.
struct RouteArgs {
  const float* logits = nullptr;  // [rows, num_experts]
  const float* bias = nullptr;    // [num_experts] or null
  int64_t rows = 0;
  int32_t num_experts = 0, num_groups = 1, top_groups = 1, top_k = 0;
  ScoringFunc scoring = ScoringFunc::kSoftmax;
  const int32_t* table = nullptr;    // [vocab, top_k] expert ids, or null: choose
  const TokenId* tokens = nullptr;   // [rows], with `table`
  bool normalize = false;         // divide by (sum of the chosen + 1e-20)
  float scale = 1;                // times this
  int32_t* experts = nullptr;     // [rows, top_k]
  float* weights = nullptr;       // [rows, top_k]
};

// Sorts (row, slot) pairs by expert, stable. One thread; a counting sort.
struct PermuteArgs {
  const int32_t* experts = nullptr;  // [rows, top_k]
  int64_t rows = 0;
  int32_t top_k = 0, num_experts = 0;
  int32_t* offsets = nullptr;        // [num_experts + 1]
  int32_t* row_ids = nullptr;        // [rows * top_k] sorted place -> row
  int32_t* places = nullptr;         // [rows, top_k]  (row, slot) -> sorted place
};

// x[i] += (sum over slots s, ascending, of weights[i, s] * y[places[i, s]]) + shared[i]
struct CombineArgs {
  const float* y = nullptr;          // [rows * top_k, hidden] sorted by expert
  const int32_t* places = nullptr;   // [rows, top_k]
  const float* weights = nullptr;    // [rows, top_k]
  const float* shared = nullptr;     // [rows, hidden] or null
  float* x = nullptr;                // [rows, hidden]
  int64_t rows = 0, hidden = 0;
  int32_t top_k = 0;
};

// Rotates dims [offset, offset + dim) of each head in place: (a, b) -> (a c - b s, b c + a s).
struct RopeArgs {
  float* x = nullptr;              // [rows, heads, head_dim]
  const float* cos_sin = nullptr;  // [rows, dim]: dim/2 cosines, then dim/2 sines, of the row's position
  int64_t rows = 0;
  int32_t heads = 1, head_dim = 0, offset = 0, dim = 0;
  RopeLayout layout = RopeLayout::kPair;
};

// One layer's slice of the paged latent cache. The entry of position p of a sequence lies at
//   base + pages[p / 64] * page_stride + (p % 64) * entry_bytes          (bytes)
// and holds kv_lora_rank normalised latent values, then rope_dim rotated key values, in `dtype` (kI8: latent_codes.h).
struct LatentCache {
  std::byte* base = nullptr;
  int64_t page_stride = 0;  // bytes from page to page
  DType dtype = DType::kF32;
};

// Rows [row_begin, row_begin + position_end - position_begin) of the batch are positions
// [position_begin, position_end) of one sequence, all of one role; pages cover [0, position_end).
struct SequenceSpan {
  int32_t row_begin = 0;
  int32_t position_begin = 0;
  int32_t position_end = 0;
  const PageId* pages = nullptr;
};

// kv_a output -> cache entry: RMSNorm of the first kv_lora_rank values, rotation of the rest, rounding to the cache's type.
struct LatentWriteArgs {
  const float* z = nullptr;             // [rows, kv_lora_rank + rope_dim]
  const float* norm_weight = nullptr;   // [kv_lora_rank]
  float eps = 0;
  const float* cos_sin = nullptr;       // [rows, rope_dim]
  RopeLayout layout = RopeLayout::kPair;
  int32_t kv_lora_rank = 0, rope_dim = 0;
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
};

// Causal multi-head latent attention (arXiv:2405.04434, 2.1) of the given rows over the cached latents (their own
// included, which are written before). Two forms of the same mathematics, chosen by the tokens' role:
//   expanded  k_h = K_h c, v_h = V_h c per cached position, ordinary attention          (prompt)
//   absorbed  q~_h = K_h^T q_h, attention over the latents themselves, o_h = V_h l_h    (generated)
struct LatentAttentionArgs {
  const float* q = nullptr;             // [rows, heads, nope_dim + rope_dim], rope part rotated
  float* out = nullptr;                 // [rows, heads, v_dim]
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
  int32_t heads = 0, nope_dim = 0, rope_dim = 0, v_dim = 0, kv_lora_rank = 0;
  float scale = 0;                      // of the scores
  std::span<const Weight> k_up;         // [heads] each [nope_dim, kv_lora_rank]: K_h      (expanded)
  std::span<const Weight> k_up_t;       // [heads] each [kv_lora_rank, nope_dim]: K_h^T    (absorbed)
  std::span<const Weight> v_up;         // [heads] each [v_dim, kv_lora_rank]: V_h         (both)
                                        // Over a bf16 cache the expanded form takes bf16 weights; the absorbed one any.
};

// The lightning indexer (DeepSeek-V3.2; transformers' deepseek_v32) keeps one key per position in a cache that lies as
// the latents' does, an entry being head_dim values:
//   k = rotation of dims [0, rope_dim) of  w * (z - mean) / sqrt(var + eps) + b,  var the mean of (z - mean)^2
struct IndexWriteArgs {
  const float* z = nullptr;            // [rows, head_dim]
  const float* norm_weight = nullptr;  // [head_dim] w
  const float* norm_bias = nullptr;    // [head_dim] b
  float eps = 0;
  const float* cos_sin = nullptr;  // [rows, rope_dim]
  RopeLayout layout = RopeLayout::kHalf;
  int32_t head_dim = 0, rope_dim = 0;
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
};

// The top_k cached entries s for each row t, of those that are complete, s < (t + 1) / ratio, of which there are at
// least so many, by
//   score(t, s) = sum over heads h, of  weights[t, h] * max(0, q[t, h] . k_s)
// Equal scores go to the lower entry. The published formula multiplies by a positive constant, which chooses nothing.
// V3.2 has an entry for each position (ratio 1), V4 for each 4 of them (see CompressedCache).
struct IndexSelectArgs {
  const float* q = nullptr;        // [rows, heads, head_dim], rotated as the keys are
  const float* weights = nullptr;  // [rows, heads], of either sign
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
  int32_t heads = 0, head_dim = 0, top_k = 0;
  int32_t ratio = 1;             // positions that an entry stands for, a divisor of kPageTokens
  int32_t* positions = nullptr;  // [rows of the spans, in their order][top_k] entries, ascending
};

// Latent attention over chosen positions alone, in the absorbed form whatever the row's role (expanded keys would serve
// one row each):
//   p = softmax over j of  scale * (absorbed[h, i] . c_s + q_rope[h] . k_rope_s),  s = positions[i, j]
//   latents[h, i] = sum over j, of  p_j c_s
// i counts the rows of the spans in their order. absorbed = K_h^T q_nope before, and V_h latents behind, are
// grouped_matmul with heads as experts: hence heads first.
struct SparseAttentionArgs {
  const float* q = nullptr;            // [rows, heads, nope_dim + rope_dim], of which the rotated rope part is read
  const float* absorbed = nullptr;     // [heads, i, kv_lora_rank]
  const int32_t* positions = nullptr;  // [i, num_positions], each <= the row's own
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
  int32_t heads = 0, nope_dim = 0, rope_dim = 0, kv_lora_rank = 0, num_positions = 0;
  float scale = 0;
  float* latents = nullptr;  // [heads, i, kv_lora_rank]
};

// Block attention (models without an indexer of their own): what a page is about, as the mean of its entries. Pages whose
// last position is among the spans' rows are written, from that page's entries alone. (Of grouped-query attention the
// entries are keys.)
struct BlockMeansArgs {
  std::span<const SequenceSpan> sequences;
  LatentCache cache;  // entries of `width` values
  LatentCache means;  // one entry of `width` values a page, of the same type, at the page's begin
  int32_t width = 0;
};

// The num_pages pages that each row attends to, whose means promise the most attention. For row t in
// page o = t / 64, o >= num_pages, and head h:
//   p[h, page] = softmax over pages [0, o) of  scale * (absorbed[h, i] . mean_c + q_rope[h] . mean_rope)
//   mass[page] = sum over heads of p[h, page]
// Chosen are pages [0, sink_pages) and (o - window_pages, o], and between them those of greatest mass; equal masses go to
// the lower page. i counts the rows of the spans in their order, absorbed is as in SparseAttentionArgs.
// Grouped-query attention: mean is that of the head's group, the group's part of the page's, and a query is all rope part.
struct BlockSelectArgs {
  const float* q = nullptr;         // [rows, heads, nope_dim + rope_dim], of which the rotated rope part is read
  const float* absorbed = nullptr;  // [heads, i, kv_lora_rank]
  std::span<const SequenceSpan> sequences;
  LatentCache means;                // of groups * (kv_lora_rank + rope_dim) values
  int32_t heads = 0, nope_dim = 0, rope_dim = 0, kv_lora_rank = 0;
  int32_t groups = 1;               // a divisor of heads; 1 with latent attention
  int32_t num_pages = 0, sink_pages = 0, window_pages = 1;  // sink_pages + window_pages <= num_pages
  float scale = 0;
  int32_t* pages = nullptr;  // [i, num_pages] places in the sequence's page table, ascending
};

// Grouped-query attention (arXiv:2305.13245): a position keeps kv_heads keys and as many values, entries of kv_heads *
// head_dim values in two caches that lie as the latents' does. Keys come normalised and rotated; both are rounded to the
// cache's type.
struct KeyValueWriteArgs {
  const float* k = nullptr;  // [rows, width]
  const float* v = nullptr;  // [rows, width]
  int32_t width = 0;         // kv_heads * head_dim
  std::span<const SequenceSpan> sequences;
  LatentCache keys, values;
};

// Causal attention of the given rows over cached keys and values (their own included, which are written before). Heads
// [g * n, (g + 1) * n), n = heads / kv_heads, share key and value head g:
//   p = softmax over s <= t of  scale * (q[t, h] . k_s[g]);   out[t, h] = sum over s of  p_s v_s[g]
// Two forms, chosen by the tokens' role: one for many rows (prompt), one for a row each (generated).
struct GroupedAttentionArgs {
  const float* q = nullptr;  // [rows, heads, head_dim], rotated
  float* out = nullptr;      // [rows, heads, head_dim]
  std::span<const SequenceSpan> sequences;
  LatentCache keys, values;
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;  // of the scores
};

// y[row_ids[i], :] = x[i, :]
struct ScatterRowsArgs {
  const float* x = nullptr;          // [rows, cols]
  const int32_t* row_ids = nullptr;  // [rows], all different
  float* y = nullptr;                // [*, cols]
  int64_t rows = 0, cols = 0;
};

// ---- DeepSeek-V4 (transformers' deepseek_v4)

// Hyper-connections: a token has `streams` residual streams. From logits m = fn rms(streams), fn [2 n + n n, n hidden]:
//   pre_j = sigmoid(m_j scale_0 + base_j) + eps                        how much of stream j goes into a block
//   post_k = 2 sigmoid(m_{n+k} scale_1 + base_{n+k})                   how much of its output goes to stream k
//   mix_jk = Sinkhorn(m_{2n+jn+k} scale_2 + base_{2n+jn+k})            what stream j gives to stream k
// Sinkhorn: softmax of each row j, plus eps; columns divided by (their sum + eps); then iterations - 1 times rows and
// columns so. Behind the last layer there is `pre` alone, with m [rows, n].
struct HyperWeightsArgs {
  const float* logits = nullptr;  // [rows, 2 n + n n], or [rows, n] where post is null
  const float* scale = nullptr;   // [3], or [1]
  const float* base = nullptr;    // [2 n + n n], or [n]
  int64_t rows = 0;
  int32_t streams = 0, iterations = 0;
  float eps = 0;
  float* pre = nullptr;   // [rows, n]
  float* post = nullptr;  // [rows, n] or null
  float* mix = nullptr;   // [rows, n, n], with post
};

constexpr int32_t kMaxStreams = 16;

// u = sum over j, ascending, of  pre_j x_j
struct HyperCollapseArgs {
  const float* x = nullptr;    // [rows, streams, hidden]
  const float* pre = nullptr;  // [rows, streams]
  int64_t rows = 0, hidden = 0;
  int32_t streams = 0;
  float* u = nullptr;  // [rows, hidden]
};

// x_k = post_k y + sum over j, ascending, of  mix_jk x_j   (the first index: mix transposed)
struct HyperExpandArgs {
  const float* y = nullptr;     // [rows, hidden] what the block made
  const float* post = nullptr;  // [rows, streams]
  const float* mix = nullptr;   // [rows, streams, streams]
  int64_t rows = 0, hidden = 0;
  int32_t streams = 0;
  float* x = nullptr;  // [rows, streams, hidden], in place
};

// One layer's entries of `ratio` positions each. The entry w of positions [ratio w, ratio (w + 1)) is complete with the
// last of them, in whose page it lies:
//   page = pages[(ratio (w + 1) - 1) / 64],  place w % (64 / ratio) if ratio <= 64, else 0
// ratio divides 64 or is a multiple of it.
struct CompressedCache {
  LatentCache entries;
  int32_t ratio = 0;
};

// The one vector per position that is key and value of all heads -> its entry in the page:
//   the last rope_dim dims of  w * (z / sqrt(mean(z^2) + eps))  rotated, all rounded to the cache's type.
struct WindowWriteArgs {
  const float* z = nullptr;            // [rows, dim]
  const float* norm_weight = nullptr;  // [dim]
  float eps = 0;
  const float* cos_sin = nullptr;  // [rows, rope_dim]
  int32_t dim = 0, rope_dim = 0;
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
};

// Blocks of `ratio` positions become one entry each. Position t has keys K_t and gates G_t = gate_t + ape[t % ratio], per
// series; an entry is, in each channel on its own,
//   e_w = softmax-weighted sum of K by G  over the block's positions; with two series: over the first series of the
//         block before (nothing for w = 0), then the second series of this block
//   entry = the last rope_dim dims of  w * rms(e_w)  rotated by the angles of position ratio w, rounded.
// A running softmax in ascending order of positions: (peak, sum, weighted sum), so what a page must remember of a block
// that is not complete does not grow with it. It stands in the page of the last computed position:
//   state of a page: kStateHeader bytes, the first int32 of which is the next position;
//                    [series][3][dim] f32: of this block's entry, and (two series) of the next one's
// The state of a page that is not full can only be continued, not cut back.
struct CompressArgs {
  const float* z = nullptr;            // [rows, 2, series, dim]: keys, then gates
  const float* ape = nullptr;          // [ratio, series, dim]
  const float* norm_weight = nullptr;  // [dim]
  float eps = 0;
  const float* cos_sin = nullptr;  // [rows, rope_dim] of the first position of the row's block
  int32_t series = 1, dim = 0, rope_dim = 0;
  std::span<const SequenceSpan> sequences;
  CompressedCache cache;
  std::byte* state = nullptr;  // of page 0
  int64_t state_stride = 0;    // bytes from page to page
};

constexpr int64_t kStateHeader = 64;
constexpr int64_t compressor_state_bytes(int64_t series, int64_t dim) { return kStateHeader + series * 3 * dim * 4; }

// Attention of row t over one list of vectors that are keys and values alike: the window's, positions
// [max(0, t - window + 1), t], then compressed entries w, ascending: all complete ones, w < (t + 1) / ratio, or those of
// `selected`. Each head has a sink, a logit with no value:
//   p = softmax over (scale q . c_s ..., sink);  out = inverse rotation at t of the last rope_dim dims of  sum p_s c_s
struct WindowAttentionArgs {
  const float* q = nullptr;        // [rows, heads, dim], rotated
  const float* sinks = nullptr;    // [heads]
  const float* cos_sin = nullptr;  // [rows, rope_dim]
  std::span<const SequenceSpan> sequences;
  LatentCache cache;
  int32_t window = 0;
  CompressedCache compressed;         // ratio 0: none
  const int32_t* selected = nullptr;  // [rows of the spans, in their order][num_selected] or null
  int32_t num_selected = 0;
  int32_t heads = 0, dim = 0, rope_dim = 0;
  float scale = 0;
  float* out = nullptr;  // [rows, heads, dim]
};

// A backend's kernels. Plain functions; every entry is filled, but for those from index_write on, on a device that does
// not serve deepseek_v32, deepseek_v4, block attention or grouped-query attention (loading is refused there).
struct Backend {
  const char* name = "";  // "ref", "cpu-avx2", "cpu-avx512"

  // Packing: rows [row_begin, row_begin + num_rows) of a [rows, cols] matrix from f32; row_begin is a multiple of
  // kPackRows and num_rows too unless it ends the matrix. Threads may pack different rows at once.
  bool (*supports)(WeightFormat format) = nullptr;
  int64_t (*packed_bytes)(WeightFormat format, int64_t rows, int64_t cols) = nullptr;
  void (*pack)(const Weight& shape, int64_t row_begin, int64_t num_rows, const float* source,
               std::byte* packed) = nullptr;

  void (*embed)(const EmbedArgs&, OpContext&) = nullptr;
  void (*rms_norm)(const RmsNormArgs&, OpContext&) = nullptr;
  void (*matmul)(const MatmulArgs&, OpContext&) = nullptr;
  void (*grouped_matmul)(const GroupedMatmulArgs&, OpContext&) = nullptr;
  void (*silu_mul)(const SiluMulArgs&, OpContext&) = nullptr;
  void (*route)(const RouteArgs&, OpContext&) = nullptr;
  void (*permute)(const PermuteArgs&, OpContext&) = nullptr;
  void (*combine)(const CombineArgs&, OpContext&) = nullptr;
  void (*rope)(const RopeArgs&, OpContext&) = nullptr;
  void (*latent_write)(const LatentWriteArgs&, OpContext&) = nullptr;
  void (*latent_attention_expanded)(const LatentAttentionArgs&, OpContext&) = nullptr;
  void (*latent_attention_absorbed)(const LatentAttentionArgs&, OpContext&) = nullptr;

  void (*index_write)(const IndexWriteArgs&, OpContext&) = nullptr;
  void (*index_select)(const IndexSelectArgs&, OpContext&) = nullptr;
  void (*sparse_attention)(const SparseAttentionArgs&, OpContext&) = nullptr;
  void (*scatter_rows)(const ScatterRowsArgs&, OpContext&) = nullptr;

  void (*hyper_weights)(const HyperWeightsArgs&, OpContext&) = nullptr;
  void (*hyper_collapse)(const HyperCollapseArgs&, OpContext&) = nullptr;
  void (*hyper_expand)(const HyperExpandArgs&, OpContext&) = nullptr;
  void (*window_write)(const WindowWriteArgs&, OpContext&) = nullptr;
  void (*compress)(const CompressArgs&, OpContext&) = nullptr;
  void (*window_attention)(const WindowAttentionArgs&, OpContext&) = nullptr;

  void (*block_means)(const BlockMeansArgs&, OpContext&) = nullptr;
  void (*block_select)(const BlockSelectArgs&, OpContext&) = nullptr;

  void (*key_value_write)(const KeyValueWriteArgs&, OpContext&) = nullptr;
  void (*grouped_attention_prompt)(const GroupedAttentionArgs&, OpContext&) = nullptr;
  void (*grouped_attention_generated)(const GroupedAttentionArgs&, OpContext&) = nullptr;
};

constexpr int64_t kPackRows = 16;

}  // namespace sluice
