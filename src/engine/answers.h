// From rows of logits to the answers of a step: which rows a plan asks for, draws, log-probabilities. Pure but for the
// hash; knows no device and no ranks. Both executors call it.
#pragma once

#include <span>
#include <vector>

#include "sluice/plan.h"

#include "engine/batch_builder.h"

namespace sluice {

// One row of logits that somebody asked for.
struct LogitsRow {
  size_t work_index = 0;
  int32_t output = -1;        // row of the step's hidden states; -1: the work's own cached_hidden
  int32_t prompt_index = -1;  // entry of prompt_logprobs, or -1: draw
};

// In the order of the plan's work.
std::vector<LogitsRow> wanted_logits(const StepPlan& plan, const BatchBuilder& builder);

// FNV-1a over the bits of the values.
constexpr uint64_t kLogitsHashSeed = 0xcbf29ce484222325;
uint64_t hash_logits(uint64_t hash, std::span<const float> logits);

// Turns one row of logits [vocab], which it may change, into its part of the result. No token where the work's
// constraint allows none.
void answer_row(const SequenceWork& work, const LogitsRow& row, std::span<float> logits, WorkResult& result);

}  // namespace sluice
