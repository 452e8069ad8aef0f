// Which part of a model a rank holds. Pure arithmetic from the config, the weight format and the rank; the layers load
// and compute what it says, `inspect` prints what it costs.
//
//   attention        heads            q and kv_b by rows, o by columns         every rank caches all latents
//   dense, shared    inner width      gate and up by rows, down by columns
//   routed experts   inner width (sliced) or experts (whole)
//   embedding, head  vocabulary       rows
//   the rest         whole on every rank: norms, router, latent down-projections, indexer
//
// Columns are cut between quantisation groups only, so that a rank's codes are those of the whole matrix: 1408 columns
// in groups of 128 are 6 groups for one of two ranks and 5 for the other. Where the cut would change the size of the
// groups (group_size() goes by the number of columns), the slice is padded with zeros to a width that keeps it.
#pragma once

#include <cstdint>

#include "sluice/status.h"
#include "sluice/weight_format.h"

#include "model/config.h"

namespace sluice {

// How ranks share the routed experts.
enum class ExpertSplit : uint8_t { kSliced, kWhole };

// [begin, end) of a dimension.
struct Slice {
  int64_t begin = 0, end = 0;
  int64_t padded = 0;  // >= size(): the width in memory, zeros behind the end

  int64_t size() const { return end - begin; }
  Slice times(int64_t each) const { return {begin * each, end * each, padded * each}; }
  static Slice all(int64_t total) { return {0, total, total}; }
};

// Rank `rank`'s blocks of `unit`; the lower ranks have one more where they do not divide.
// Precondition: unit divides total, and there are at least `ranks` blocks.
Slice slice_of(int64_t total, int64_t unit, int rank, int ranks);

struct Partition {
  int rank = 0, num_ranks = 1;
  ExpertSplit split = ExpertSplit::kSliced;
  Slice heads;
  Slice dense_width;   // of intermediate_size
  Slice shared_width;  // of moe_intermediate_size * n_shared_experts
  Slice expert_width;  // of moe_intermediate_size
  Slice experts;       // of n_routed_experts
  Slice vocab;

  bool first() const { return rank == 0; }

  static Partition whole(const ModelConfig& config);
  // FAILED_PRECONDITION names the dimension that is too small for so many ranks in this format.
  static Result<Partition> make(const ModelConfig& config, WeightFormat format, int rank, int num_ranks,
                                ExpertSplit split);
};

}  // namespace sluice
