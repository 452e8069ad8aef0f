// What a model is and costs, from its config alone: parameters, memory, arithmetic. Owns no measurement; the figures
// follow from the shapes of required_tensors(). Called by `sluice inspect`, by the memory plan, and for ModelInfo.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sluice/weight_format.h"

#include "model/checkpoint.h"
#include "model/config.h"
#include "model/partition.h"

namespace sluice {

// A checkpoint's files as they lie on disk.
struct FileReport {
  int64_t bytes = 0;
  std::map<std::string, int64_t> tensors_by_dtype;  // dtype name -> number of tensors
};

// One of the ways in which layers of DeepSeek-V4 keep what they have seen.
struct LayerTypeReport {
  std::string name;  // "window", "selected" (4 : 1, chosen by an indexer), "global" (128 : 1)
  int32_t num_layers = 0;
  int64_t cache_bytes_per_token_bf16 = 0;  // one such layer
};

// A group of the cache layout, all its layers.
struct CacheGroupReport {
  std::string name;
  int64_t bytes_per_token_bf16 = 0;
  int64_t bytes_per_token_f32 = 0;
};

struct ModelReport {
  std::string architecture;  // model_type
  int32_t num_layers = 0;
  int32_t num_moe_layers = 0;
  int32_t num_routed_experts = 0;  // of a MoE layer
  int32_t num_shared_experts = 0;
  int32_t num_experts_per_token = 0;
  int32_t context_length = 0;  // tokens

  // Multi-token-prediction layers are not counted. Active: what one token uses, of the routed experts its share, the
  // whole embedding table and the head included.
  int64_t parameters = 0;
  int64_t active_parameters = 0;
  int64_t active_parameters_without_embedding = 0;
  int64_t quantizable_parameters = 0;  // all matrices but the embedding and the routers, which stay BF16 as norms do

  std::vector<std::pair<WeightFormat, int64_t>> weights_bytes;  // in memory, every format but auto

  std::vector<CacheGroupReport> cache_groups;
  std::vector<LayerTypeReport> layer_types;  // V4 only
  int64_t cache_bytes_per_token_bf16 = 0;    // what KvLayout says, all groups
  int64_t cache_bytes_per_token_f32 = 0;
  int64_t cache_bytes_per_token_int8 = 0;  // 0 where check_cache_dtype refuses int8

  // Two operations a weight of every matrix that a token is multiplied with (the embedding is only looked up).
  int64_t flop_per_token = 0;
  // What each token before it adds, attention in its absorbed form: scores over the latent, values of its first part.
  int64_t attention_flop_per_context_token = 0;
  int32_t attention_context_limit = 0;       // tokens that attention looks at, at most; 0: all before it
  int32_t attention_unlimited_layers = 0;    // ... but for so many layers, where there is a limit
  int64_t index_flop_per_context_token = 0;  // the scores that choose those tokens
  double flop_per_parameter = 0;  // flop_per_token / parameters: how little of the model a token wakes

  std::optional<FileReport> files;
};

// `checkpoint` adds the report of its files; random weights have none.
ModelReport inspect(const ModelConfig& config, const Checkpoint* checkpoint = nullptr);

// Bytes of one rank's weights, counted as weights_bytes are.
int64_t rank_bytes(const ModelConfig& config, WeightFormat format, const Partition& partition);

std::string to_text(const ModelReport& report);  // lines for people
std::string to_json(const ModelReport& report);  // one object on one line

}  // namespace sluice
