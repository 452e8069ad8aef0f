#include "engine/follower.h"

#include <algorithm>
#include <cstring>

namespace sluice {

Follower::Follower(DeepSeekModel& model, OpContext context, int32_t num_pages)
    : model_(model), context_(context), kv_(model.kv_layout(), model.cache_dtype(), num_pages), logits_(model) {}

Status Follower::run(Duration timeout, Duration patience) {
  Communicator& ranks = model_.ranks();
  Duration between_steps = std::max(timeout, patience);
  while (true) {
    ranks.set_timeout(between_steps);
    SLUICE_ASSIGN_OR_RETURN(const std::vector<std::byte> message, receive_message(ranks));
    ranks.set_timeout(timeout);
    SLUICE_ASSIGN_OR_RETURN(const RankMessage kind, kind_of(message));
    if (kind == RankMessage::kEnd) return {};
    if (kind == RankMessage::kSignOfLife) {
      between_steps = timeout;
      float alive = 1;  // so that rank 0 hears of this rank, too
      SLUICE_RETURN_IF_ERROR(ranks.all_reduce_sum({&alive, 1}));
      continue;
    }
    if (kind == RankMessage::kTimes) {
      if (!on_times_) return internal_error("rank {}: asked for times, but notes none", ranks.rank());
      SLUICE_RETURN_IF_ERROR(on_times_());
      continue;
    }
    SLUICE_RETURN_IF_ERROR(step(message));
  }
}

Status Follower::step(std::span<const std::byte> message) {
  SLUICE_ASSIGN_OR_RETURN(const ReceivedStep step, decode_step(message));
  const int64_t page_bytes = kv_.layout().bytes_per_page(), width = model_.config().hidden_size;
  for (size_t i = 0; i < step.filled.size(); ++i)
    std::memcpy(kv_.page(step.filled[i]), step.contents.data() + static_cast<int64_t>(i) * page_bytes,
                static_cast<size_t>(page_bytes));
  for (const PageCopy& copy : step.copies) kv_.copy(copy);
  hidden_.resize(step.output_rows.size() * static_cast<size_t>(width));
  if (!step.tokens.empty()) SLUICE_RETURN_IF_ERROR(model_.forward(step.batch(kv_.pages()), hidden_.data(), context_));

  std::vector<const float*> rows;
  std::vector<uint8_t> whole;
  const float* state = step.hidden_states.data();
  for (const LogitsWanted& wanted : step.logits) {
    rows.push_back(wanted.output >= 0 ? hidden_.data() + int64_t{wanted.output} * width : state);
    if (wanted.output < 0) state += width;
    whole.push_back(wanted.whole);
  }
  for (size_t begin = 0; begin < rows.size(); begin += VocabLogits::kRows) {
    const size_t count = std::min(VocabLogits::kRows, rows.size() - begin);
    SLUICE_RETURN_IF_ERROR(
        logits_.compute(std::span(rows).subspan(begin, count), std::span(whole).subspan(begin, count), context_));
  }
  return {};
}

}  // namespace sluice
