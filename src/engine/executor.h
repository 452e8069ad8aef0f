// Carries out step plans: page moves and copies, the model, the draws. Owns the cache memory and the step's buffers;
// the model, backend and threads are lent. One thread (the loop thread) calls run().
#pragma once

#include <vector>

#include "sluice/plan.h"

#include "engine/batch_builder.h"
#include "engine/kv_memory.h"
#include "engine/step_executor.h"
#include "model/deepseek.h"

namespace sluice {

class Executor final : public StepExecutor {
 public:
  Executor(DeepSeekModel& model, OpContext context, int32_t num_pages);

  StepResult run(const StepPlan& plan) override;

  void set_observer(const ForwardObserver* observer) override { observer_ = observer; }
  void set_hashing(bool on) override { hashing_ = on; }
  uint64_t logits_hash() const override { return logits_hash_; }

  const StepTimes& times() const override { return times_; }
  KvMemory& kv() { return kv_; }

 private:
  // One row of logits that somebody asked for.
  struct LogitsRow {
    size_t work_index;
    const float* hidden;   // [hidden_size]
    int32_t prompt_index;  // entry of prompt_logprobs, or -1: draw
  };

  void collect_rows(const StepPlan& plan, std::vector<LogitsRow>& rows) const;
  void answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result);
  void answer_row(const SequenceWork& work, const LogitsRow& row, std::span<float> logits, WorkResult& result);

  DeepSeekModel& model_;
  OpContext context_;
  KvMemory kv_;
  BatchBuilder builder_;
  const ForwardObserver* observer_ = nullptr;
  bool hashing_ = false;
  uint64_t logits_hash_ = 0xcbf29ce484222325;
  StepTimes times_;
  std::vector<float> hidden_;    // [output rows, hidden_size]
  std::vector<float> gathered_;  // [kLogitsRows, hidden_size]
  std::vector<float> logits_;    // [kLogitsRows, vocab_size]
};

}  // namespace sluice
