// The part of a DeepSeek-V4 config.json that no other family has; config.cc reads the rest.
#pragma once

#include "model/config.h"
#include "model/json_fields.h"

namespace sluice {

// Attention, hyper-connections and experts. Errors stay in `fields`.
void read_v4(JsonFields& fields, ModelConfig& config);

}  // namespace sluice
