// Block attention for models that were trained with full attention (training-free): a row looks at the pages of the
// cache that its queries would give the most attention to, by what the pages' means say, besides the first ones and its
// own surroundings.
//
//   page     0    1    2    3    4    5    6    7    8    9   10   11      num_pages 6, sink 1, window 2
//   means    m0   m1   m2   m3   m4   m5   m6   m7   m8   m9  m10          a page has them when it is full
//   chosen [sink]     [best]         [best][best]            [ window ]
//
// A row in page o sees o + 1 pages: up to num_pages of them are all chosen, and such rows are ordinary attention, bit
// for bit. The rest goes through here, in the absorbed form whatever their role. Which kernel serves a row follows from
// its position alone, and the chosen pages are handed to the absorbed kernel as if they were a short sequence: its keys
// carry their rotation, so that it needs no positions. Grouped-query attention goes the same way, its keys in the place
// of latents and its form for generated tokens in that of the absorbed one.
//
// How to choose was decided by the share of full attention's probability that lies on the chosen pages: the bundled
// model reading stories, contexts of 2,048, 8 of 32 pages, mean of all rows with a choice, heads and layers.
//   the true masses of the pages (the most that a choice per row can keep)                     0.850
//   mean entry of a page, softmax per head, summed over heads                                  0.836   this one
//   means of 2, 4, 8 parts of a page: 2, 4, 8 times the memory and the scoring                 0.838, 0.839, 0.840
//   mean and variance, or mean and deviation as a bound: twice both                            0.836, 0.837
//   smallest and largest value of each dimension (Quest, arXiv:2406.10774): twice both         0.821
//   the mean, but the page that one head wants most; but raw scores summed                     0.828, 0.826
//   the last pages alone                                                                       0.223
#pragma once

#include <vector>

#include "sluice/batch.h"

#include "base/activations.h"
#include "model/config.h"
#include "model/row_spans.h"

namespace sluice {

class BlockAttention {
 public:
  // Of config.block_global, if it is given: FAILED_PRECONDITION for a model that was trained to choose for itself,
  // INVALID_ARGUMENT for options that contradict each other.
  static Status check(const ModelConfig& config);

  // A layer that is not full; config.block_global is given.
  BlockAttention(const ModelConfig& config, int32_t layer);

  struct Workspace {
    Workspace(const ModelConfig& config, int64_t max_rows);
    std::vector<SequenceSpan> block;   // rows that go through the kernels together
    HeadRows head_rows;                // of the block
    Activations<float> absorbed;       // [heads, block, kv_lora_rank]
    Activations<int32_t> chosen;       // [block, num_pages] places in the sequence's page table
    Activations<PageId> pages;         // [block, num_pages]
    std::vector<SequenceSpan> short_;  // [block] each row's chosen pages as a sequence of their own
  };

  // Means of the pages that the spans' rows fill; the rows' latents, or keys, are written before.
  void write_means(const StepBatch& batch, std::span<const SequenceSpan> spans, const LatentCache& entries,
                   const Backend& backend, OpContext& context) const;

  // Attention of the rows of `spans`, all of them at or beyond num_pages * kPageTokens. `attention` is as for the
  // absorbed kernel, or that of generated tokens, but for its sequences.
  void forward(const StepBatch& batch, std::span<const SequenceSpan> spans, const LatentAttentionArgs& attention,
               Workspace& work, const Backend& backend, OpContext& context) const;
  void forward(const StepBatch& batch, std::span<const SequenceSpan> spans, const GroupedAttentionArgs& attention,
               Workspace& work, const Backend& backend, OpContext& context) const;

 private:
  LatentCache means_of(const KvPages& kv) const;
  // Rows of work.block -> work.short_. `query` says what a row's queries are; the rest of it is filled in here.
  void choose(const StepBatch& batch, BlockSelectArgs query, Workspace& work, const Backend& backend,
              OpContext& context) const;

  const ModelConfig& config_;
  const BlockGlobalConfig options_;
  int32_t layer_;
  int64_t slot_;  // within the group of means
};

}  // namespace sluice
