// The fields of config.json that only qwen3_moe has, or has otherwise. Called by ModelConfig::parse.
#pragma once

#include "model/config.h"
#include "model/json_fields.h"

namespace sluice {

void read_qwen3_moe(JsonFields& fields, ModelConfig& config);

}  // namespace sluice
