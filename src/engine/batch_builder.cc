#include "engine/batch_builder.h"

#include "sluice/check.h"

namespace sluice {

int32_t BatchBuilder::num_outputs(const SequenceWork& work) {
  const int32_t count = work.end - work.begin;
  if (work.num_prompt_logprobs >= 0) return count;
  return count > 0 && (work.samples || work.wants_hidden) ? 1 : 0;
}

StepBatch BatchBuilder::build(const StepPlan& plan, KvPages kv, const ForwardObserver* observer) {
  tokens_.clear();
  positions_.clear();
  prompt_spans_.clear();
  generated_spans_.clear();
  output_rows_.clear();
  first_output_.clear();
  for (const SequenceWork& work : plan.work) {
    const int32_t count = work.end - work.begin;
    const int32_t outputs = num_outputs(work);
    first_output_.push_back(outputs > 0 ? static_cast<int32_t>(output_rows_.size()) : -1);
    if (count == 0) continue;
    SLUICE_CHECK(static_cast<int64_t>(work.pages.size()) * kPageTokens >= work.end, "pages={} end={}",
                 work.pages.size(), work.end);
    const auto row_begin = static_cast<int32_t>(tokens_.size());
    for (int32_t position = work.begin; position < work.end; ++position) {
      tokens_.push_back(work.all_tokens[static_cast<size_t>(position)]);
      positions_.push_back(position);
    }
    auto& spans = work.role == TokenRole::kPrompt ? prompt_spans_ : generated_spans_;
    spans.push_back({row_begin, work.begin, work.end, work.pages.data()});
    for (int32_t i = count - outputs; i < count; ++i) output_rows_.push_back(row_begin + i);
  }
  return {.tokens = tokens_,
          .positions = positions_,
          .prompt_spans = prompt_spans_,
          .generated_spans = generated_spans_,
          .output_rows = output_rows_,
          .kv = kv,
          .observer = observer};
}

}  // namespace sluice
