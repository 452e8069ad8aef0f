// What this machine can do at most, measured here and now with the threads that will do the work, so that every figure
// of a benchmark stands beside its bound. Owns the memory that is read.
#pragma once

#include "sluice/tensor.h"
#include "sluice/thread_team.h"

namespace sluice {

struct MachineBounds {
  double read_gb_per_second = 0;   // sequential reading far beyond the caches, huge pages; 10^9 bytes
  double f32_gop_per_second = 0;   // multiply-adds in the widest vectors, two operations each
  double bf16_gop_per_second = 0;  // dot products of bf16 pairs; 0 without the instruction
  double int8_gop_per_second = 0;  // dot products: VNNI, or the three AVX2 instructions that stand for it; 2 a product
};

// Each rate's higher one: the clock of a shared machine doubles and halves from one second to the next.
MachineBounds best_of(const MachineBounds& a, const MachineBounds& b);

class BoundMeter {
 public:
  explicit BoundMeter(ThreadTeam& team);
  // Takes about a second. The best of some passes counts, because every disturbance makes it slower.
  MachineBounds measure();

 private:
  double read_rate();

  ThreadTeam& team_;
  Buffer buffer_;
};

}  // namespace sluice
