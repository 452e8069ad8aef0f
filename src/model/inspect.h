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

// What serving takes of the machine's memory: resident at its peak, when the cache is full and a step was as large as it
// may be. app/footprint.h makes one.
struct MemoryReport {
  int64_t weights = 0;      // packed; what a checkpoint keeps wide, and what attention keeps in two forms, included
  int64_t replicated = 0;   // of the weights, what each of several ranks holds alike; the rest is this rank's own
  int64_t cache = 0;        // all pages
  int64_t activations = 0;  // of the largest step, and its logits
  int64_t kernels = 0;      // what kernels share within one call, about
  int64_t process = 0;      // the program itself with its libraries, threads and allocator, about

  int64_t total() const { return weights + cache + activations + kernels + process; }
  std::string to_text() const;  // "weights 1.62 GB + cache 200.00 MB + ... = 1.98 GB"
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
  std::optional<MemoryReport> memory;  // with the options at hand
  std::vector<MemoryReport> memory_of_ranks;  // instead, where they ask for several
};

// `checkpoint` adds the report of its files; random weights have none.
ModelReport inspect(const ModelConfig& config, const Checkpoint* checkpoint = nullptr);

// Bytes of one rank's weights, counted as weights_bytes are.
int64_t rank_bytes(const ModelConfig& config, WeightFormat format, const Partition& partition);

std::string to_text(const ModelReport& report);  // lines for people
std::string to_json(const ModelReport& report);  // one object on one line

}  // namespace sluice
