// Carries out step plans: page moves and copies, the model, the draws. Owns the cache memory and the step's buffers;
// the model, backend and threads are lent. One thread (the loop thread) calls run(). Of a model over several ranks this
// is rank 0: it tells the others each step (rank_message.h), and they follow (follower.h).
#pragma once

#include <vector>

#include "sluice/plan.h"

#include "engine/answers.h"
#include "engine/batch_builder.h"
#include "engine/kv_memory.h"
#include "engine/rank_message.h"
#include "engine/step_executor.h"
#include "engine/vocab_logits.h"
#include "model/deepseek.h"

namespace sluice {

class Executor final : public StepExecutor {
 public:
  Executor(DeepSeekModel& model, OpContext context, int32_t num_pages);

  // Not ok: the group of ranks is broken, now and for every later step.
  StepResult run(const StepPlan& plan) override;

  // Between steps: tells the other ranks that this one lives, and hears the same of them. Does nothing on one rank.
  Status give_sign_of_life() override;
  const Status& group_status() const override { return group_status_; }

  void set_observer(const ForwardObserver* observer) override { observer_ = observer; }
  void set_hashing(bool on) override { hashing_ = on; }
  uint64_t logits_hash() const override { return logits_hash_; }

  const StepTimes& times() const override { return times_; }
  KvMemory& kv() { return kv_; }

 private:
  const float* hidden_of(const SequenceWork& work, const LogitsRow& row) const;
  bool needs_all_logits(const SequenceWork& work, const LogitsRow& row) const;
  Status tell_ranks(const StepPlan& plan, const StepBatch& batch, std::span<const LogitsRow> rows);
  Status compute(const StepPlan& plan, StepResult& result);
  Status answer(const StepPlan& plan, std::span<const LogitsRow> rows, StepResult& result);

  DeepSeekModel& model_;
  OpContext context_;
  KvMemory kv_;
  BatchBuilder builder_;
  const ForwardObserver* observer_ = nullptr;
  bool hashing_ = false;
  uint64_t logits_hash_ = kLogitsHashSeed;
  StepTimes times_;
  std::vector<float> hidden_;  // [output rows, hidden_size]
  VocabLogits logits_;
  Status group_status_;
};

}  // namespace sluice
