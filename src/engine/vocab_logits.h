// Logits on rank 0 from the parts of the vocabulary that the ranks hold. Every rank makes its own part of a row; rank 0
// gathers whole rows where a draw or somebody's logprobs need them, and of the others only each rank's largest logit:
// the draw is the same as on one rank, from the same values. Owns the buffers; one thread.
#pragma once

#include <span>
#include <vector>

#include "base/activations.h"
#include "model/deepseek.h"

namespace sluice {

class VocabLogits {
 public:
  // Rows made at once: bounds the buffer (32 x 129,280 x 4 = 16.5 MB) when a long prompt asks for logprobs, and is
  // enough rows for the head's weights to be read once for a whole decode batch of usual size.
  static constexpr size_t kRows = 32;

  explicit VocabLogits(DeepSeekModel& model);

  // What one of these takes.
  static int64_t bytes(const DeepSeekModel& model) {
    const Partition& part = model.partition();
    int64_t values = model.config().hidden_size + part.vocab.size();
    if (part.num_ranks > 1) {  // sent, and on rank 0 gathered and laid out
      const int64_t sent = (model.config().vocab_size + part.num_ranks - 1) / part.num_ranks;
      values += sent + (part.first() ? part.num_ranks * sent + model.config().vocab_size : 0);
    }
    return static_cast<int64_t>(kRows) * 4 * values;
  }

  // All ranks, with the same rows (at most kRows) in the same order: hidden states, and which rows are wanted whole.
  Status compute(std::span<const float* const> hidden, std::span<const uint8_t> whole, OpContext& context);

  // Rank 0, after compute(): row i that was wanted whole [vocab], or the token of the largest logit of one that was not
  // (the lowest of equals).
  std::span<float> row(size_t i);
  TokenId largest(size_t i) const { return largest_[i]; }

 private:
  // What a rank gives of a row that is not wanted whole.
  struct Candidate {
    float logit;
    TokenId token;
  };

  Slice slice_of_rank(int rank) const;
  int64_t widest() const { return slice_of_rank(0).size(); }
  void pack(size_t rows, std::span<const uint8_t> whole);
  void unpack(size_t rows, std::span<const uint8_t> whole);

  DeepSeekModel& model_;
  Activations<float> hidden_;        // [kRows, hidden_size]
  Activations<float> own_;           // [kRows, own vocab]; of one rank that is the whole
  Activations<float> all_;           // [kRows, vocab], rank 0 among several
  std::vector<TokenId> largest_;     // [kRows]
  std::vector<std::byte> sent_;      // a rank's part of all rows, as wide as the widest rank's
  std::vector<std::byte> gathered_;  // [ranks] of these, on rank 0
};

}  // namespace sluice
