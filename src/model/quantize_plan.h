// Which tensors a quantised checkpoint has, in which files they lie, and what its config.json says of them. Pure data
// and functions; writes nothing. Called by quantize_checkpoint.cc.
#pragma once

#include <string>
#include <vector>

#include "sluice/weight_format.h"

#include "model/checkpoint.h"
#include "model/shard.h"

namespace sluice {

// One tensor of the source and what becomes of it.
struct PlannedTensor {
  TensorSpec spec;
  WeightFormat format = WeightFormat::kBF16;  // quantised, bf16 or f32

  std::string module() const;             // spec.name without ".weight"
  std::vector<ShardTensor> parts() const;  // as files name them
};

using PlannedShard = std::vector<PlannedTensor>;

// All tensors in load order, a new shard begun where one would exceed `shard_bytes`.
std::vector<PlannedShard> plan_shards(const Checkpoint& source, const ModelConfig& config, WeightFormat weights,
                                      bool keep_head, int64_t shard_bytes);

// "model.safetensors", or "model-00002-of-00005.safetensors".
std::string shard_file(size_t index, size_t count);

// How our own reader sees what the plan writes.
PackedScheme written_scheme(WeightFormat weights);

// `config_json` with quantization_config, torch_dtype and the number of prediction layers (none) replaced.
Result<std::string> quantized_config(const std::string& config_json, const std::vector<PlannedShard>& shards,
                                     WeightFormat weights);

// model.safetensors.index.json.
std::string shard_index(const std::vector<PlannedShard>& shards);

}  // namespace sluice
