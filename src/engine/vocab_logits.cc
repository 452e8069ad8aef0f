#include "engine/vocab_logits.h"

#include <algorithm>
#include <cstring>

#include "sluice/check.h"

namespace sluice {

VocabLogits::VocabLogits(DeepSeekModel& model) : model_(model) {
  const Partition& part = model.partition();
  hidden_.resize(kRows * static_cast<size_t>(model.config().hidden_size));
  own_.resize(kRows * static_cast<size_t>(part.vocab.size()));
  largest_.resize(kRows);
  if (part.num_ranks > 1 && part.first()) all_.resize(kRows * static_cast<size_t>(model.config().vocab_size));
}

Slice VocabLogits::slice_of_rank(int rank) const {
  return slice_of(model_.config().vocab_size, 1, rank, model_.partition().num_ranks);
}

std::span<float> VocabLogits::row(size_t i) {
  Activations<float>& rows = model_.partition().num_ranks == 1 ? own_ : all_;
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  return std::span(rows).subspan(i * vocab, vocab);
}

Status VocabLogits::compute(std::span<const float* const> hidden, std::span<const uint8_t> whole, OpContext& context) {
  SLUICE_CHECK(hidden.size() <= kRows && hidden.size() == whole.size(), "{} rows, {} wishes", hidden.size(),
               whole.size());
  const auto width = static_cast<size_t>(model_.config().hidden_size);
  for (size_t i = 0; i < hidden.size(); ++i) std::copy_n(hidden[i], width, hidden_.data() + i * width);
  model_.logits(hidden_.data(), static_cast<int64_t>(hidden.size()), own_.data(), context);
  if (model_.partition().num_ranks == 1) return {};
  Communicator& ranks = model_.ranks();
  pack(hidden.size(), whole);
  if (ranks.rank() == 0) gathered_.resize(sent_.size() * static_cast<size_t>(ranks.size()));
  SLUICE_RETURN_IF_ERROR(ranks.gather(sent_, gathered_));
  if (ranks.rank() == 0) unpack(hidden.size(), whole);
  return {};
}

void VocabLogits::pack(size_t rows, std::span<const uint8_t> whole) {
  const Slice& own = model_.partition().vocab;
  const size_t own_bytes = static_cast<size_t>(own.size()) * sizeof(float);
  const size_t row_bytes = static_cast<size_t>(widest()) * sizeof(float);
  sent_.clear();
  for (size_t i = 0; i < rows; ++i) {
    const float* logits = own_.data() + static_cast<int64_t>(i) * own.size();
    const size_t at = sent_.size();
    if (whole[i]) {
      sent_.resize(at + row_bytes);
      std::memcpy(sent_.data() + at, logits, own_bytes);
    } else {
      const float* best = std::max_element(logits, logits + own.size());
      const Candidate candidate{*best, static_cast<TokenId>(own.begin + (best - logits))};
      sent_.resize(at + sizeof(candidate));
      std::memcpy(sent_.data() + at, &candidate, sizeof(candidate));
    }
  }
}

void VocabLogits::unpack(size_t rows, std::span<const uint8_t> whole) {
  const size_t row_bytes = static_cast<size_t>(widest()) * sizeof(float);
  size_t at = 0;
  for (size_t i = 0; i < rows; ++i) {
    Candidate best{};
    for (int rank = 0; rank < model_.ranks().size(); ++rank) {
      const std::byte* theirs = gathered_.data() + static_cast<size_t>(rank) * sent_.size() + at;
      if (whole[i]) {
        const Slice slice = slice_of_rank(rank);
        std::memcpy(row(i).data() + slice.begin, theirs, static_cast<size_t>(slice.size()) * sizeof(float));
        continue;
      }
      Candidate candidate;
      std::memcpy(&candidate, theirs, sizeof(candidate));
      if (rank == 0 || candidate.logit > best.logit) best = candidate;
    }
    largest_[i] = best.token;
    at += whole[i] ? row_bytes : sizeof(Candidate);
  }
}

}  // namespace sluice
