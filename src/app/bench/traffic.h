// What a step of a model must read and compute at least, from its config: the numerators of `bench engine`. Each weight
// counts once per step for the whole batch, however often a kernel may read it in fact.
#pragma once

#include <cstdint>

#include "sluice/weight_format.h"

#include "model/config.h"

namespace sluice {

struct WeightTraffic {
  int64_t dense_bytes = 0;       // attention, dense and shared feed-forward, routers, norms, head
  int64_t expert_bytes = 0;      // one routed expert of one layer
  int64_t token_operations = 0;  // two a weight that one token is multiplied with, without the head
  int64_t head_operations = 0;   // of one row of logits
};

// `weights` is the resolved format. The cached latents' up-projections stay BF16 in quantised formats.
WeightTraffic weight_traffic(const ModelConfig& config, WeightFormat weights);

}  // namespace sluice
