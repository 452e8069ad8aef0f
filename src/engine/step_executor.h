// What carries out step plans: the seam between the loop and the devices. Executor computes with the CPU's kernels,
// GpuExecutor (src/gpu) on a CUDA device.
#pragma once

#include "sluice/batch.h"
#include "sluice/plan.h"

namespace sluice {

// Where a step's time went, in seconds; sums over all steps.
struct StepTimes {
  double forward = 0;
  double logits = 0;
  double sample = 0;
};

// One thread (the loop thread) calls all of it.
class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  virtual StepResult run(const StepPlan& plan) = 0;

  // For tests and metrics; called from run(). Null switches it off.
  virtual void set_observer(const ForwardObserver* observer) = 0;
  // Hash of every logits row that was drawn from, in order, if switched on: equal hashes mean equal bits.
  virtual void set_hashing(bool on) = 0;
  virtual uint64_t logits_hash() const = 0;

  virtual const StepTimes& times() const = 0;

  // Between steps: tells other ranks that this one lives, and hears the same of them. Does nothing on one rank.
  virtual Status give_sign_of_life() { return {}; }
  // What ended it for good: the group of ranks is broken, or the device is lost. Ok while it can compute.
  virtual const Status& group_status() const = 0;
};

}  // namespace sluice
