#include "app/footprint.h"

#include <algorithm>

#include "app/loaded_model.h"
#include "engine/vocab_logits.h"
#include "kernels/registry.h"

namespace sluice {

namespace {

// `sluice serve` on configs/shapes/v4-mini (in two formats, 2 threads): 39 MB beside the weights once it is ready, of which
// the warm-up's part of the activations is 9. Behind the first long prompt nothing comes to it but the rest of those.
constexpr int64_t kProcessBytes = 30'000'000;

// The largest that a kernel was seen to ask for: a step's inputs of the widest product once more, in 8 bits with their
// scales, or a thread's accumulators of attention.
int64_t kernel_bytes(const ModelConfig& config, int64_t rows, int threads) {
  int64_t widest = config.hidden_size;
  for (const TensorSpec& spec : required_tensors(config))
    if (spec.shape.rank == 2) widest = std::max(widest, spec.shape[1]);
  return std::max(rows * widest * 5 / 4, threads * rows * 1024);
}

// What ranks meet by: the terms of a sum over a step's rows, from all ranks, and the part of it that is added here.
int64_t exchange_bytes(const DeepSeekModel& model) {
  const int ranks = model.partition().num_ranks;
  const int64_t stream = model.max_batch_tokens() * model.config().hidden_size * int64_t{sizeof(float)};
  return ranks == 1 ? 0 : stream + stream / ranks;
}

// Of rank `rank` of so many.
Result<MemoryReport> predict_rank(const Options& options, const ModelConfig& config, const Checkpoint& checkpoint,
                                  int rank, int num_ranks) {
  SLUICE_ASSIGN_OR_RETURN(const Backend* backend, find_backend(options.device));
  ThreadTeam team(1);
  Scratch scratch;
  OpContext context{team, scratch};
  const WeightFormat weights = options.weights == WeightFormat::kAuto ? checkpoint.native_format() : options.weights;
  SLUICE_ASSIGN_OR_RETURN(const auto model, DeepSeekModel::load(config, checkpoint, *backend, context,
                                                                {.weights = options.weights,
                                                                 .cache_dtype = cache_dtype_of(options, weights),
                                                                 .max_batch_tokens = options.max_batch_tokens,
                                                                 .progress = {},
                                                                 .measure_only = true,
                                                                 .rank = rank,
                                                                 .num_ranks = num_ranks,
                                                                 .experts = expert_split(options)}));
  const int32_t tokens = options.context > 0 ? options.context : config.max_position_embeddings;
  int64_t pages = (tokens + kPageTokens - 1) / kPageTokens + 1;
  if (options.cache_memory_mib > 0) pages = (options.cache_memory_mib << 20) / model->kv_layout().bytes_per_page();
  const int threads = options.threads > 0 ? options.threads : std::max(1, ThreadTeam::available_cpus() / num_ranks);
  return footprint_of(*model, static_cast<int32_t>(std::min<int64_t>(pages, INT32_MAX)), threads);
}

}  // namespace

MemoryReport footprint_of(const DeepSeekModel& model, int32_t num_pages, int threads) {
  return {.weights = model.weight_bytes(),
          .cache = model.kv_layout().bytes_per_page() * num_pages,
          .activations = model.activation_bytes() + VocabLogits::bytes(model) + exchange_bytes(model),
          .kernels = kernel_bytes(model.config(), model.max_batch_tokens(), threads),
          .process = kProcessBytes};
}

Result<MemoryReport> predict_footprint(const Options& options, const ModelConfig& config,
                                       const Checkpoint& checkpoint) {
  return predict_rank(options, config, checkpoint, 0, 1);
}

Result<std::vector<MemoryReport>> predict_footprints(const Options& options, const ModelConfig& config,
                                                     const Checkpoint& checkpoint) {
  SLUICE_ASSIGN_OR_RETURN(const MemoryReport whole, predict_rank(options, config, checkpoint, 0, 1));
  std::vector<MemoryReport> ranks;
  int64_t weights = 0;
  for (int rank = 0; rank < options.tp; ++rank) {
    SLUICE_ASSIGN_OR_RETURN(const MemoryReport report, predict_rank(options, config, checkpoint, rank, options.tp));
    weights += report.weights;
    ranks.push_back(report);
  }
  // Together they hold what is cut once and the rest tp times. (And the padding of uneven cuts, which counts as rest.)
  for (MemoryReport& report : ranks) report.replicated = (weights - whole.weights) / (options.tp - 1);
  return ranks;
}

}  // namespace sluice
