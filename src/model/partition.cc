#include "model/partition.h"

#include <algorithm>
#include <numeric>

#include "sluice/check.h"
#include "sluice/quantize.h"

namespace sluice {

namespace {

// Columns that must stay together in a matrix of `cols` inputs: a quantisation group. Of unquantised ones as many as
// still leave every rank a block, up to what the kernels' widest vectors take at once.
int64_t column_unit(WeightFormat format, int64_t cols, int num_ranks) {
  if (is_quantized(format))
    if (const int32_t group = group_size(format, cols); group > 0) return group;
  int64_t unit = 32;
  while (unit > 1 && (cols % unit != 0 || cols / unit < num_ranks)) unit /= 2;
  return unit;
}

// Behind `size` columns so many zeros that the groups are those of the whole matrix.
int64_t padded_to_keep_groups(WeightFormat format, int64_t cols, int64_t size) {
  const int32_t group = is_quantized(format) ? group_size(format, cols) : 0;
  if (group == 0) return size;
  int64_t padded = size;
  while (group_size(format, padded) != group) padded += group;
  return padded;
}

class Cutter {
 public:
  Cutter(WeightFormat format, int rank, int num_ranks) : format_(format), rank_(rank), num_ranks_(num_ranks) {}

  Slice cut(const char* name, int64_t total, int64_t unit) {
    if (total == 0) return {};
    if (total % unit != 0 || total / unit < num_ranks_) {
      if (status_.ok())
        status_ = failed_precondition("tp: {} ranks cannot share {} of {} in {}: they come in blocks of {}", num_ranks_,
                                      name, total, sluice::name(format_), unit);
      return {};
    }
    return slice_of(total, unit, rank_, num_ranks_);
  }

  Slice cut_columns(const char* name, int64_t total) {
    Slice slice = cut(name, total, total == 0 ? 1 : column_unit(format_, total, num_ranks_));
    if (slice.size() > 0) slice.padded = padded_to_keep_groups(format_, total, slice.size());
    return slice;
  }

  // Heads whose columns in the output projection are whole groups. Heads cannot be padded: where a slice of several
  // small groups would count as fewer, larger ones, the cut is coarser. (With the published 128 columns a head it never
  // comes to this.)
  Slice cut_heads(int64_t heads, int64_t columns_each) {
    const int64_t cols = heads * columns_each;
    const int64_t group = is_quantized(format_) ? std::max(group_size(format_, cols), 1) : 1;
    const auto keeps_groups = [&](const Slice& slice) {
      const int64_t size = slice.size() * columns_each;
      return padded_to_keep_groups(format_, cols, size) == size;
    };
    for (int64_t unit = std::lcm(group, columns_each) / columns_each;; unit *= 2) {
      const Slice mine = cut("num_attention_heads", heads, unit);
      if (mine.size() == 0) return mine;
      bool all_keep = true;  // every rank must come to the same cut
      for (int rank = 0; rank < num_ranks_; ++rank) all_keep &= keeps_groups(slice_of(heads, unit, rank, num_ranks_));
      if (all_keep) return mine;
    }
  }

  const Status& status() const { return status_; }

 private:
  const WeightFormat format_;
  const int rank_, num_ranks_;
  Status status_;
};

}  // namespace

Slice slice_of(int64_t total, int64_t unit, int rank, int ranks) {
  SLUICE_CHECK(total % unit == 0 && total / unit >= ranks, "{} in blocks of {} for {} ranks", total, unit, ranks);
  const int64_t blocks = total / unit, each = blocks / ranks, more = blocks % ranks;
  const int64_t begin = rank * each + std::min<int64_t>(rank, more);
  const int64_t end = begin + each + (rank < more ? 1 : 0);
  return {begin * unit, end * unit, (end - begin) * unit};
}

Partition Partition::whole(const ModelConfig& config) {
  return {.heads = Slice::all(config.num_attention_heads),
          .dense_width = Slice::all(config.intermediate_size),
          .shared_width = Slice::all(int64_t{config.moe_intermediate_size} * config.n_shared_experts),
          .expert_width = Slice::all(config.moe_intermediate_size),
          .experts = Slice::all(config.n_routed_experts),
          .vocab = Slice::all(config.vocab_size)};
}

Result<Partition> Partition::make(const ModelConfig& config, WeightFormat format, int rank, int num_ranks,
                                  ExpertSplit split) {
  Partition partition = whole(config);
  if (num_ranks == 1) return partition;
  if (config.hybrid || config.grouped)
    return failed_precondition("tp: model_type {} runs on one rank, asked for {}", config.model_type, num_ranks);
  partition.rank = rank;
  partition.num_ranks = num_ranks;
  partition.split = split;
  Cutter cutter(format, rank, num_ranks);
  partition.heads = cutter.cut_heads(config.num_attention_heads, config.v_head_dim);
  partition.dense_width = cutter.cut_columns("intermediate_size", config.intermediate_size);
  partition.shared_width = cutter.cut_columns("moe_intermediate_size * n_shared_experts",
                                              int64_t{config.moe_intermediate_size} * config.n_shared_experts);
  if (split == ExpertSplit::kWhole) {
    partition.experts = cutter.cut("n_routed_experts", config.n_routed_experts, 1);
  } else {
    partition.expert_width = cutter.cut_columns("moe_intermediate_size", config.moe_intermediate_size);
  }
  partition.vocab = cutter.cut("vocab_size", config.vocab_size, 1);
  SLUICE_RETURN_IF_ERROR(cutter.status());
  return partition;
}

}  // namespace sluice
