// Everything that a subcommand needs to run a model: config, tokenizer, chat format, threads, packed weights. Owns
// them, in the order in which they depend on each other.
#pragma once

#include <memory>
#include <optional>

#include "sluice/request.h"
#include "sluice/thread_team.h"

#include "chat/chat_format.h"
#include "config/options.h"
#include "gpu/engine.h"
#include "model/deepseek.h"
#include "parallel/group.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

// Directory of the bundled demo model: SOURCE/configs/demo-moe as built, or share/sluice/demo-moe beside an installed
// binary's bin/. NOT_FOUND names both.
Result<std::string> bundled_model();

struct LoadedModel {
  // Logs progress and the memory plan to stderr. Errors name file, tensor, expected and found.
  // Of several ranks this process loads its own part and waits for the others; FAILED_PRECONDITION if nobody launched
  // them, or if they do not hold the same model.
  static Result<std::unique_ptr<LoadedModel>> load(const Options& options);
  ~LoadedModel();  // rank 0 tells the others that it is over

  bool leads() const { return !model || model->partition().first(); }
  OpContext context() { return {*team, scratch}; }
  // Of the model, wherever it is.
  KvLayout kv_layout() const { return gpu ? gpu->kv_layout() : model->kv_layout(); }
  DType kv_dtype() const { return gpu ? DType::kBF16 : model->cache_dtype(); }
  const char* cache_name() const;  // kv_dtype() as cache.dtype spells it
  int64_t weight_bytes() const { return gpu ? gpu->weight_bytes() : model->weight_bytes(); }
  // FAILED_PRECONDITION if it is on a CUDA device, which `command` cannot measure.
  Status expect_cpu(const char* command) const;
  // Prompt ids of a plain text: the begin-of-sequence token where the tokenizer adds one, then the text.
  Result<std::vector<TokenId>> encode_prompt(const std::string& text) const;

  std::string directory;
  ModelConfig config;
  ModelInfo info;
  std::optional<Tokenizer> tokenizer;     // none: the model serves token ids
  std::optional<ChatFormat> chat_format;  // none: chat is refused, `chat_status` says why
  Status chat_status;
  const Backend* backend = nullptr;  // null on a CUDA device
  std::unique_ptr<ThreadTeam> team;
  Scratch scratch;
  std::unique_ptr<Group> group;
  std::unique_ptr<DeepSeekModel> model;  // on the CPU, or
  std::unique_ptr<GpuEngine> gpu;        // on a CUDA device, with its executor
  int32_t num_pages = 0;                 // of the paged cache
};

// What `attention` and `block_global.*` ask for; none for full attention.
std::optional<BlockGlobalConfig> block_global_of(const Options& options);

// What cache.dtype means for weights of this format.
DType cache_dtype_of(const Options& options, WeightFormat weights);
// Layers whose experts a CUDA device leaves to the host, as `experts_on` asks; none: as few as it has no room for.
std::optional<int32_t> host_layers_of(const Options& options, const ModelConfig& config);
// What `parallel.experts` asks for.
ExpertSplit expert_split(const Options& options);

// Pages for `memory_mib` (0: a quarter of the free memory, at most 4 GiB), at least enough for one whole context, where
// that fits the memory at all. RESOURCE_EXHAUSTED with numbers and a hint if not. `sharers`: ranks on this machine,
// which keep a cache each.
Result<int32_t> plan_cache(const KvLayout& layout, int64_t memory_mib, int32_t context_length, int sharers = 1);

}  // namespace sluice
