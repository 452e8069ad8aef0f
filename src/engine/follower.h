// A rank other than the first: does what rank 0 says, step by step, until rank 0 says that it is over. Owns a copy of
// the paged cache that is byte for byte rank 0's, since latents come from the residual stream, which all ranks hold.
// One thread.
#pragma once

#include <functional>
#include <vector>

#include "sluice/clock.h"

#include "engine/kv_memory.h"
#include "engine/rank_message.h"
#include "engine/vocab_logits.h"

namespace sluice {

class Follower {
 public:
  Follower(DeepSeekModel& model, OpContext context, int32_t num_pages);

  // OK when rank 0 ended the group; else what broke it. Within a step the others are heard of within `timeout`. Between
  // steps rank 0 may take `patience` (reading prompts, a large disk tier) until it has given its first sign of life,
  // as a server does every second; then `timeout` again. A rank that dies is noticed at once either way.
  Status run(Duration timeout, Duration patience);

  // Answers rank 0's wish for times; whoever measures sets it before run().
  void on_times(std::function<Status()> hook) { on_times_ = std::move(hook); }

 private:
  Status step(std::span<const std::byte> message);

  DeepSeekModel& model_;
  OpContext context_;
  KvMemory kv_;
  VocabLogits logits_;
  std::vector<float> hidden_;  // [output rows, hidden_size]
  std::function<Status()> on_times_;
};

}  // namespace sluice
