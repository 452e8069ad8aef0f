#include <filesystem>

#include "app/doctor.h"
#include "app/loaded_model.h"
#include "app/serve_checks.h"
#include "base/machine_limits.h"
#include "gpu/device_name.h"
#include "gpu/model.h"
#include "kernels/registry.h"
#include "model/checkpoint.h"
#include "model/inspect.h"
#include "model/partition.h"
#include "server/auth.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

constexpr double kGiB = 1 << 30;

Finding of_status(const char* topic, const Status& status, const std::string& good, const std::string& advice = "") {
  if (status.ok()) return {topic, Verdict::kOk, good, ""};
  return {topic, Verdict::kFail, status.message(), advice};
}

// What of the model can be known from its folder.
struct Model {
  std::string directory;
  ModelConfig config;
  ModelReport report;
  WeightFormat weights = WeightFormat::kBF16;
};

Result<Model> read_model(const Options& options) {
  Model out;
  out.directory = options.model;
  if (out.directory.empty()) {
    SLUICE_ASSIGN_OR_RETURN(out.directory, bundled_model());
  }
  SLUICE_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::load(out.directory));
  config.block_global = block_global_of(options);
  if (is_cuda_device(options.device)) {
    SLUICE_RETURN_IF_ERROR(GpuModel::check_supported(config));
  } else {
    SLUICE_ASSIGN_OR_RETURN(const Backend* backend, find_backend(options.device));
    SLUICE_RETURN_IF_ERROR(DeepSeekModel::check_supported(config, *backend));
  }
  SLUICE_ASSIGN_OR_RETURN(const Checkpoint files, options.random_weights ? Result<Checkpoint>(Checkpoint::random(
                                                                               *options.random_weights, config))
                                                                         : Checkpoint::open(out.directory, config));
  for (const TensorSpec& spec : required_tensors(config)) SLUICE_RETURN_IF_ERROR(files.expect(spec));
  out.report = inspect(config);
  out.weights = options.weights == WeightFormat::kAuto ? files.native_format() : options.weights;
  if (is_cuda_device(options.device)) {
    SLUICE_RETURN_IF_ERROR(GpuModel::check_weights(out.weights));
  } else {
    SLUICE_ASSIGN_OR_RETURN(const Backend* backend, find_backend(options.device));
    if (!backend->supports(out.weights))
      return failed_precondition("weights: {} is not supported on device {}", name(out.weights), backend->name);
  }
  out.config = std::move(config);
  return out;
}

// Of all ranks together; what they do not share is there several times.
int64_t bytes_of(const Options& options, const Model& model) {
  if (options.tp > 1) {
    int64_t sum = 0;
    for (int rank = 0; rank < options.tp; ++rank)
      if (const auto part = Partition::make(model.config, model.weights, rank, options.tp, expert_split(options));
          part.ok())
        sum += rank_bytes(model.config, model.weights, *part);
    return sum;
  }
  for (const auto& [format, bytes] : model.report.weights_bytes)
    if (format == model.weights) return bytes;
  return 0;
}

Finding ranks(const Options& options, const Model& model) {
  if (options.tp == 1) return {"ranks", Verdict::kOk, "one", ""};
  const auto check = [&]() -> Status {
    if (is_cuda_device(options.device) || model.config.hybrid || model.config.block_global)
      return failed_precondition("tp: this model, device and attention run on one rank, asked for {}", options.tp);
    return Partition::make(model.config, model.weights, 0, options.tp, expert_split(options)).status();
  };
  return of_status("ranks", check(), fmt::format("{}, each with a part of the model and a whole cache", options.tp),
                   "lower --tp, or take another --weights");
}

Finding context(const Options& options, const Model& model) {
  const int32_t known = model.config.max_position_embeddings;
  if (options.context <= known)
    return {"context", Verdict::kOk, fmt::format("{} tokens", options.context > 0 ? options.context : known), ""};
  return {"context", Verdict::kFail,
          fmt::format("context: the model knows {} positions, asked for {}", known, options.context),
          "lower --context; 0 takes the model's own"};
}

Finding model_folder(const Result<Model>& model) {
  if (!model.ok())
    return {"model", Verdict::kFail, model.status().message(),
            "--model takes the folder of a Hugging Face checkpoint: config.json, *.safetensors, tokenizer.json"};
  const std::string found = fmt::format("{}: {}, {:.1f} G parameters", model->directory, model->report.architecture,
                                        static_cast<double>(model->report.parameters) / 1e9);
  if (!fs::exists(model->directory + "/tokenizer.json"))
    return {"model", Verdict::kWarn, found + ", without tokenizer.json", "it serves token ids only; text is refused"};
  return {"model", Verdict::kOk, found, ""};
}

Finding plan(const Options& options, const Model& model) {
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / kGiB; };
  if (is_cuda_device(options.device))
    return {
        "plan", Verdict::kOk,
        fmt::format("weights {:.2f} GiB ({}) go to the device; the plan of its memory is made and printed at the start",
                    gib(bytes_of(options, model)), name(model.weights)),
        ""};
  const int64_t free = available_memory(), weights = bytes_of(options, model);
  const int64_t per_token =
      options.cache_dtype == "int8" ? model.report.cache_bytes_per_token_int8
      : options.cache_dtype == "f32" || (options.cache_dtype == "auto" && model.weights == WeightFormat::kF32)
          ? model.report.cache_bytes_per_token_f32
          : model.report.cache_bytes_per_token_bf16;
  // As plan_cache() does, on each of the ranks that share this machine.
  const int64_t cache =
      options.cache_memory_mib > 0
          ? options.cache_memory_mib << 20
          : std::min<int64_t>(std::max<int64_t>(0, free - weights) / options.tp / 4, int64_t{4} << 30);
  const int64_t host = options.cache_host_mib << 20;
  const std::string found =
      fmt::format("weights {:.2f} GiB ({}) + {}cache {:.2f} GiB ({} tokens) + host tier {:.2f} GiB of {:.2f} GiB free",
                  gib(weights), name(model.weights), options.tp > 1 ? fmt::format("{} x ", options.tp) : "", gib(cache),
                  per_token > 0 ? cache / per_token : 0, gib(host), gib(free));
  const int64_t wanted = weights + cache * options.tp + host;
  const int64_t length = options.context > 0 ? options.context : model.config.max_position_embeddings;
  if (wanted > free)
    return {"plan", Verdict::kFail, found,
            "take smaller --weights (`sluice inspect` lists them), a smaller --cache-memory-mib, or more memory"};
  if (per_token > 0 && cache / per_token < length)
    return {
        "plan", Verdict::kWarn, found,
        fmt::format("one context of {} tokens does not fit into the cache: raise cache.memory_mib, or lower --context",
                    length)};
  if (wanted > free - free / 10)
    return {"plan", Verdict::kWarn, found,
            "less than a tenth of the memory is left for prompts, buffers and other work"};
  return {"plan", Verdict::kOk, found, ""};
}

Finding disk_tier(const Options& options) {
  if (options.cache_disk.empty()) return {"disk tier", Verdict::kOk, "none", ""};
  Options alone = options;
  alone.weights_cache.clear();
  if (const Status status = check_folders(alone); !status.ok()) return of_status("disk tier", status, "");
  std::error_code error;
  const int64_t free = static_cast<int64_t>(fs::space(options.cache_disk, error).available) >> 20;
  const std::string found =
      fmt::format("{}: {} MiB wanted, {} MiB free", options.cache_disk, options.cache_disk_mib, free);
  if (!error && free < options.cache_disk_mib)
    return {"disk tier", Verdict::kWarn, found, "lower cache.disk_mib: a full disk ends the saving of pages"};
  return {"disk tier", Verdict::kOk, found, ""};
}

Finding weights_cache(const Options& options) {
  if (options.weights_cache.empty())
    return {"packed", Verdict::kOk, "no weights_cache: weights are packed at each start", ""};
  Options alone = options;
  alone.cache_disk.clear();
  return of_status("packed", check_folders(alone), options.weights_cache + " can be written to");
}

Finding tokens(const Options& options) {
  if (options.auth_tokens.empty()) return {"tokens", Verdict::kOk, "nobody is asked for one", ""};
  const auto loaded = Authenticator::load(options.auth_tokens);
  return of_status("tokens", loaded.status(),
                   loaded.ok() ? fmt::format("{} in {}", (*loaded)->num_tokens(), options.auth_tokens) : "",
                   "`sluice token --name CLIENT` makes an entry");
}

}  // namespace

void examine_options(const Options& options, std::vector<Finding>& out) {
  const Result<Model> model = read_model(options);
  out.push_back(model_folder(model));
  if (model.ok()) {
    out.push_back(context(options, *model));
    out.push_back(ranks(options, *model));
    out.push_back(plan(options, *model));
  }
  out.push_back(weights_cache(options));
  out.push_back(disk_tier(options));
  out.push_back(of_status("addresses", check_addresses(options),
                          fmt::format("grpc {} and http {} are free", options.grpc, options.http),
                          "end what holds the port, or take another (--grpc, --http; off serves no HTTP)"));
  out.push_back(of_status("security", check_security(options),
                          options.insecure ? "insecure was said" : "nothing is reachable without TLS and tokens"));
  out.push_back(tokens(options));
}

std::vector<Finding> examine(const Options& options) {
  std::vector<Finding> out;
  examine_machine(options, out);
  examine_options(options, out);
  return out;
}

}  // namespace sluice
