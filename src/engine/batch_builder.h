// From a StepPlan to the rows of a StepBatch. Owns the vectors that the batch points into; reused from step to step.
#pragma once

#include <vector>

#include "sluice/batch.h"
#include "sluice/plan.h"

namespace sluice {

class BatchBuilder {
 public:
  // The result points into this builder and into the plan; valid until the next call.
  StepBatch build(const StepPlan& plan, KvPages kv, const ForwardObserver* observer);

  // Index of the first output row of work[i], or -1 if it has none. An item asks for its last row, or for all of its
  // rows when it wants prompt logprobs.
  int32_t first_output(size_t work_index) const { return first_output_[work_index]; }
  static int32_t num_outputs(const SequenceWork& work);

 private:
  std::vector<TokenId> tokens_;
  std::vector<int32_t> positions_;
  std::vector<SequenceSpan> prompt_spans_;
  std::vector<SequenceSpan> generated_spans_;
  std::vector<int32_t> output_rows_;
  std::vector<int32_t> first_output_;
};

}  // namespace sluice
