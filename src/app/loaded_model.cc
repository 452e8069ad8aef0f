#include "app/loaded_model.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "sluice/clock.h"
#include "sluice/log.h"

#include "app/footprint.h"
#include "app/model_fingerprint.h"
#include "app/progress_bar.h"
#include "base/machine_limits.h"
#include "config/launch.h"
#include "engine/rank_message.h"
#include "gpu/device_name.h"
#include "gpu/open.h"
#include "gpu/packing.h"
#include "gpu/workspace.h"
#include "kernels/registry.h"
#include "model/cache_layout.h"
#include "model/inspect.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

constexpr double kMiB = 1 << 20;

// The weights alone must fit; what is short is named before anything is allocated.
Status check_memory(int64_t needed, WeightFormat weights) {
  const int64_t free = available_memory();
  if (const auto limit = group_limits().memory_bytes)
    log_info("memory: a control group (the container's?) allows {:.0f} MiB", static_cast<double>(*limit) / kMiB);
  log_info("memory: weights {:.0f} MiB ({}), {:.0f} MiB free", static_cast<double>(needed) / kMiB, name(weights),
           static_cast<double>(free) / kMiB);
  if (needed <= free) return {};
  return resource_exhausted(
      "weights: {:.0f} MiB in {} do not fit into {:.0f} MiB of free memory; `sluice inspect` lists the"
      " sizes of other formats",
      static_cast<double>(needed) / kMiB, name(weights), static_cast<double>(free) / kMiB);
}

Status load_tokenizer(const Options& options, LoadedModel& loaded) {
  if (!fs::exists(fs::path(loaded.directory) / "tokenizer.json")) {
    loaded.chat_status =
        failed_precondition("{}: has no tokenizer.json; the model serves token ids only", loaded.directory);
    return {};
  }
  SLUICE_ASSIGN_OR_RETURN(loaded.tokenizer, Tokenizer::load(loaded.directory));
  if (loaded.tokenizer->vocab_size() > loaded.config.vocab_size)
    return failed_precondition("tokenizer.json: holds ids up to {}, but config.json: vocab_size is {}",
                               loaded.tokenizer->vocab_size() - 1, loaded.config.vocab_size);
  // V4 ships no template: its layout is published as a program.
  const bool is_v4 = loaded.config.hybrid && loaded.tokenizer->chat_template().empty();
  Result<ChatFormat> format = !options.chat_format.empty() ? parse_chat_format(options.chat_format)
                              : is_v4                      ? Result<ChatFormat>(ChatFormat::kDeepSeekV4)
                                                           : detect_chat_format(loaded.tokenizer->chat_template());
  if (format.ok()) {
    loaded.chat_format = *format;
  } else {
    loaded.chat_status = format.status();
  }
  return {};
}

Status fill_info(const Options& options, const ModelReport& report, LoadedModel& loaded) {
  ModelInfo& info = loaded.info;
  const ModelConfig& config = loaded.config;
  info.name = options.name.empty() ? fs::path(loaded.directory).filename().string() : options.name;
  info.architecture = config.model_type;
  if (loaded.backend) info.device = fmt::format("{} ({} threads)", loaded.backend->name, loaded.team->size());
  info.vocab_size = config.vocab_size;
  info.context_length = options.context > 0 ? options.context : config.max_position_embeddings;
  if (info.context_length > config.max_position_embeddings)
    return invalid_argument(
        "context: the model knows {} positions (config.json: max_position_embeddings), asked for {}",
        config.max_position_embeddings, info.context_length);
  info.num_parameters = report.parameters;
  info.num_active_parameters = report.active_parameters;
  info.eos_token_ids = config.eos_token_ids;
  info.bos_token_id = config.bos_token_id;
  SLUICE_RETURN_IF_ERROR(apply_generation_config(loaded.directory, info));
  if (loaded.tokenizer) {
    if (const auto eos = loaded.tokenizer->eos();
        eos && std::find(info.eos_token_ids.begin(), info.eos_token_ids.end(), *eos) == info.eos_token_ids.end())
      info.eos_token_ids.push_back(*eos);
  }
  return {};
}

// Stands for the model, the formats and how ranks share it.
Result<uint64_t> model_key(const Options& options, const LoadedModel& loaded, WeightFormat weights, DType cache) {
  std::string how = fmt::format("{} {} {}", name(options.weights), name(weights), name(cache));
  // What the host keeps is not in the cache of packed weights, and how much that is follows from the device's room.
  if (options.experts_on != "device") how += fmt::format(" experts on {}", options.experts_on);
  if (options.tp > 1) how += fmt::format(" tp {} {} {}", options.tp, options.parallel_experts, loaded.backend->name);
  return model_fingerprint(loaded.directory, how, options.random_weights);
}

// The others' addresses, from what launched this rank.
GroupAddress group_address(const Launch& launch, const Options& options) {
  const auto duration = [](double value) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
  };
  return {.rank = launch.rank,
          .size = launch.size,
          .host = launch.host,
          .port = launch.port,
          .listener = launch.listener,
          .own_host = options.parallel_address,
          .one_machine = launch.local_size == launch.size,
          .start_timeout = duration(options.parallel_start_timeout),
          .timeout = duration(options.parallel_timeout)};
}

// Waits for the others and makes sure that all hold the same; the smallest cache counts for all.
Status join_ranks(const Options& options, WeightFormat weights, LoadedModel& loaded) {
  struct Terms {
    uint64_t model;
    int64_t max_batch_tokens;
    int64_t num_pages;
  };
  SLUICE_RETURN_IF_ERROR(loaded.group->meet());
  Communicator& ranks = loaded.group->ranks();
  loaded.model->join(ranks);
  if (ranks.alone()) return {};
  SLUICE_ASSIGN_OR_RETURN(const uint64_t key, model_key(options, loaded, weights, cache_dtype_of(options, weights)));
  const Terms own{key, options.max_batch_tokens, loaded.num_pages};
  std::vector<Terms> all(static_cast<size_t>(ranks.size()));
  SLUICE_RETURN_IF_ERROR(ranks.all_gather(std::as_bytes(std::span(&own, 1)), std::as_writable_bytes(std::span(all))));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].model != all[0].model)
      return failed_precondition("rank {}: model, weight format, cache type, split of experts or device differ from rank 0's",
                                 rank);
    if (all[rank].max_batch_tokens != all[0].max_batch_tokens)
      return failed_precondition("rank {}: scheduler.max_batch_tokens: expected rank 0's {}, found {}", rank,
                                 all[0].max_batch_tokens, all[rank].max_batch_tokens);
    loaded.num_pages = std::min(loaded.num_pages, static_cast<int32_t>(all[rank].num_pages));
  }
  log_info("rank {} of {}: all have met; each caches {} pages", ranks.rank(), ranks.size(), loaded.num_pages);
  return {};
}

Status load_on_gpu(const Options& options, const Checkpoint& files, int64_t total_bytes, PackedCache* packed_cache,
                   LoadedModel& loaded) {
  if (options.cache_dtype == "f32" || options.cache_dtype == "int8")
    return failed_precondition("cache.dtype: {} is not supported on device {}, which keeps bf16", options.cache_dtype,
                               options.device);
  OpContext context = loaded.context();
  const Backend* host_backend = nullptr;
  if (options.experts_on != "device") {
    SLUICE_ASSIGN_OR_RETURN(host_backend, find_backend("cpu"));
  }
  ProgressBar bar("loading", total_bytes);
  SLUICE_ASSIGN_OR_RETURN(loaded.gpu, open_gpu_engine(options.device, loaded.config, files, context,
                                                      {.weights = options.weights,
                                                       .max_batch_tokens = options.max_batch_tokens,
                                                       .context_length = loaded.info.context_length,
                                                       .cache_memory_mib = options.cache_memory_mib,
                                                       .progress = [&](int64_t done) { bar.show(done); },
                                                       .packed_cache = packed_cache,
                                                       .host_layers = host_layers_of(options, loaded.config),
                                                       .host_backend = host_backend}));
  loaded.info.device = loaded.gpu->device_name();
  loaded.num_pages = loaded.gpu->num_pages();
  return {};
}

}  // namespace

Result<std::string> bundled_model() {
  std::error_code error;
  const fs::path binary = fs::read_symlink("/proc/self/exe", error);
  const fs::path installed = binary.parent_path().parent_path() / "share" / "sluice" / "demo-moe";
  const fs::path source = fs::path(SLUICE_SOURCE_DIR) / "configs" / "demo-moe";
  for (const fs::path& candidate : {installed, source})
    if (fs::exists(candidate / "config.json")) return candidate.string();
  return not_found("the bundled demo model is neither in {} nor in {}; name a model with --model DIR",
                   installed.string(), source.string());
}

std::optional<BlockGlobalConfig> block_global_of(const Options& options) {
  if (options.attention != "block_global") return std::nullopt;
  return BlockGlobalConfig{.pages = options.block_global_pages,
                           .sink_pages = options.block_global_sink_pages,
                           .window_pages = options.block_global_window_pages,
                           .full_every = options.block_global_full_every};
}

DType cache_dtype_of(const Options& options, WeightFormat weights) {
  if (options.cache_dtype == "auto") return weights == WeightFormat::kF32 ? DType::kF32 : DType::kBF16;
  if (options.cache_dtype == "int8") return DType::kI8;
  return options.cache_dtype == "f32" ? DType::kF32 : DType::kBF16;
}

std::optional<int32_t> host_layers_of(const Options& options, const ModelConfig& config) {
  if (options.experts_on == "device") return 0;
  if (options.experts_on == "auto") return std::nullopt;
  if (options.experts_on == "cpu") return moe_layers(config);
  return std::atoi(options.experts_on.c_str() + std::strlen("cpu:"));  // a number, the option's parser says
}

ExpertSplit expert_split(const Options& options) {
  return options.parallel_experts == "whole" ? ExpertSplit::kWhole : ExpertSplit::kSliced;
}

Result<int32_t> plan_cache(const KvLayout& layout, int64_t memory_mib, int32_t context_length, int sharers) {
  const int64_t page_bytes = layout.bytes_per_page();
  const int64_t free = available_memory() / sharers;
  const int64_t wanted = memory_mib > 0 ? memory_mib << 20 : std::min<int64_t>(free / 4, int64_t{4} << 30);
  const int64_t pages_of_context = (context_length + kPageTokens - 1) / kPageTokens + 1;
  int64_t pages = wanted / page_bytes;
  if (memory_mib == 0) pages = std::max(pages, std::min(pages_of_context, free / 2 / page_bytes));
  if (pages < 2 || pages * page_bytes > free)
    return resource_exhausted(
        "cache: {} pages of {} bytes do not fit into {:.0f} MiB of free memory; lower cache.memory_mib, or"
        " take cache.dtype bf16 or int8",
        std::max<int64_t>(pages, 2), page_bytes, static_cast<double>(free) / kMiB);
  log_info("memory: cache {:.0f} MiB, {} pages of {} tokens ({} bytes a token); one context is {} pages",
           static_cast<double>(pages * page_bytes) / kMiB, pages, kPageTokens, layout.bytes_per_token(),
           pages_of_context);
  return static_cast<int32_t>(std::min<int64_t>(pages, INT32_MAX));
}

LoadedModel::~LoadedModel() {
  if (!model || !model->joined() || model->partition().num_ranks == 1 || !leads()) return;
  // Where they are gone already there is nobody to tell.
  const Status told = send_message(model->ranks(), encode(RankMessage::kEnd));
  if (!told.ok()) log_debug("{}", told.to_string());
}

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(const Options& options) {
  const TimePoint begin = std::chrono::steady_clock::now();
  auto loaded = std::make_unique<LoadedModel>();
  SLUICE_ASSIGN_OR_RETURN(const Launch launch, read_launch(options.tp));
  if (!launch.is_rank)
    return failed_precondition(
        "tp: this command runs on one rank, asked for {}; serve, generate, perplexity and bench"
        " engine start several",
        options.tp);
  SLUICE_ASSIGN_OR_RETURN(loaded->group, Group::open(group_address(launch, options)));
  loaded->directory = options.model;
  if (options.model.empty()) {
    SLUICE_ASSIGN_OR_RETURN(loaded->directory, bundled_model());
  }
  if (!fs::is_directory(loaded->directory))
    return not_found("model: {} is no folder; expected that of a checkpoint (config.json, *.safetensors, tokenizer.json)",
                     loaded->directory);
  SLUICE_ASSIGN_OR_RETURN(loaded->config, ModelConfig::load(loaded->directory));
  loaded->config.block_global = block_global_of(options);
  const bool on_gpu = is_cuda_device(options.device);
  if (on_gpu && launch.size > 1)
    return failed_precondition("tp: device {} runs on one rank, asked for {}; ranks are the CPU's so far",
                               options.device, launch.size);
  if (!on_gpu && options.experts_on != "device" && options.experts_on != "auto")
    return invalid_argument("experts_on: {} is for device cuda; device {} has all experts where they are computed",
                            options.experts_on, options.device);
  if (!on_gpu) {
    SLUICE_ASSIGN_OR_RETURN(loaded->backend, find_backend(options.device));
    SLUICE_RETURN_IF_ERROR(DeepSeekModel::check_supported(loaded->config, *loaded->backend));
    if (options.cache_dtype == "int8") SLUICE_RETURN_IF_ERROR(check_cache_dtype(loaded->config, DType::kI8));
  }
  SLUICE_ASSIGN_OR_RETURN(const Checkpoint files,
                          options.random_weights
                              ? Result<Checkpoint>(Checkpoint::random(*options.random_weights, loaded->config))
                              : Checkpoint::open(loaded->directory, loaded->config));
  loaded->team = std::make_unique<ThreadTeam>(
      options.threads > 0 ? options.threads : std::max(1, ThreadTeam::available_cpus() / launch.local_size));
  SLUICE_RETURN_IF_ERROR(load_tokenizer(options, *loaded));
  const ModelReport report = inspect(loaded->config);
  SLUICE_RETURN_IF_ERROR(fill_info(options, report, *loaded));

  const WeightFormat weights = options.weights == WeightFormat::kAuto ? files.native_format() : options.weights;
  SLUICE_ASSIGN_OR_RETURN(const Partition partition,
                          Partition::make(loaded->config, weights, launch.rank, launch.size, expert_split(options)));
  const int64_t total = rank_bytes(loaded->config, weights, partition);
  if (!on_gpu) SLUICE_RETURN_IF_ERROR(check_memory(total * launch.local_size, weights));
  std::optional<PackedCache> packed_cache;
  if (!options.weights_cache.empty()) {
    // Weights lie alike over a bf16 and an int8 cache.
    const DType cache = cache_dtype_of(options, weights) == DType::kF32 ? DType::kF32 : DType::kBF16;
    SLUICE_ASSIGN_OR_RETURN(const uint64_t key, model_key(options, *loaded, weights, cache));
    const std::string part = launch.size == 1 ? "" : fmt::format("-{}of{}", launch.rank, launch.size);
    const std::string file =
        fmt::format("{}-{}{}.packed", fs::path(loaded->directory).filename().string(), name(weights), part);
    packed_cache.emplace(options.weights_cache + "/" + file,
                         key ^ packed_layout(loaded->backend ? packing_of(*loaded->backend) : cuda_packing(), weights));
  }
  if (const auto& mode = loaded->config.block_global)
    log_info(
        "attention: block_global: beyond {} positions a token attends to {} pages of {} ({} first, {} last); {} "
        "layers stay full",
        mode->pages * kPageTokens, mode->pages, kPageTokens, mode->sink_pages, mode->window_pages,
        mode->num_full(loaded->config.num_hidden_layers));
  OpContext context = loaded->context();
  if (on_gpu) {
    SLUICE_RETURN_IF_ERROR(load_on_gpu(options, files, total, packed_cache ? &*packed_cache : nullptr, *loaded));
  } else {
    ProgressBar bar("loading", total);
    SLUICE_ASSIGN_OR_RETURN(loaded->model, DeepSeekModel::load(loaded->config, files, *loaded->backend, context,
                                                               {.weights = options.weights,
                                                                .cache_dtype = cache_dtype_of(options, weights),
                                                                .max_batch_tokens = options.max_batch_tokens,
                                                                .progress = [&](int64_t done) { bar.show(done); },
                                                                .observer = {},
                                                                .packed_cache = packed_cache ? &*packed_cache : nullptr,
                                                                .rank = launch.rank,
                                                                .num_ranks = launch.size,
                                                                .experts = expert_split(options)}));
  }
  loaded->info.weights = name(weights);
  if (!on_gpu) {
    SLUICE_ASSIGN_OR_RETURN(loaded->num_pages, plan_cache(loaded->model->kv_layout(), options.cache_memory_mib,
                                                          loaded->info.context_length, launch.local_size));
    SLUICE_RETURN_IF_ERROR(join_ranks(options, weights, *loaded));
    log_info("memory: at most {}", footprint_of(*loaded->model, loaded->num_pages, loaded->team->size()).to_text());
  }
  log_info("loaded {} ({}, {} parameters, {} active) on {} in {:.2f} s", loaded->info.name, loaded->info.architecture,
           loaded->info.num_parameters, loaded->info.num_active_parameters, loaded->info.device,
           seconds(std::chrono::steady_clock::now() - begin));
  return loaded;
}

const char* LoadedModel::cache_name() const {
  const DType dtype = kv_dtype();
  return dtype == DType::kI8 ? "int8" : dtype == DType::kF32 ? "f32" : "bf16";
}

Status LoadedModel::expect_cpu(const char* command) const {
  if (!gpu) return {};
  return failed_precondition("device: {} measures the CPU's engine; on a CUDA device `bench serve` and ./check gpu do",
                             command);
}

Result<std::vector<TokenId>> LoadedModel::encode_prompt(const std::string& text) const {
  if (!tokenizer) return chat_status;
  return tokenizer->encode(text, tokenizer->adds_bos(), SpecialTokens::kParse);
}

}  // namespace sluice
