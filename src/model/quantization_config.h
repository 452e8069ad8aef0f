// quantization_config of a config.json: which ready-made quantised layouts a checkpoint says it has, and which of them
// can be taken exactly. Owns the words of other tools' configs and nothing else. Called by ModelConfig::parse.
#pragma once

#include <string>

#include "model/config.h"
#include "model/json_fields.h"

namespace sluice {

// Fills the FP8 blocks or the packed scheme of `config`; a checkpoint without the object stays as it is.
// FAILED_PRECONDITION names the key, what is supported and what was found.
Status read_quantization(JsonFields& fields, const std::string& file, ModelConfig& config);

}  // namespace sluice
