// `sluice inspect DIR`: what a model is and costs, before anything is loaded.
#include "model/inspect.h"

#include <filesystem>
#include <iostream>

#include "sluice/log.h"

#include "app/commands.h"
#include "app/footprint.h"
#include "app/loaded_model.h"

namespace sluice {

namespace {

struct InspectCommand {
  OptionFlags options;
  std::string directory;
  bool json = false;

  Status run() const;
};

Status add_memory(const Options& options, const ModelConfig& config, const Checkpoint& checkpoint,
                  ModelReport& report) {
  if (options.tp > 1) {
    SLUICE_ASSIGN_OR_RETURN(report.memory_of_ranks, predict_footprints(options, config, checkpoint));
  } else {
    SLUICE_ASSIGN_OR_RETURN(report.memory, predict_footprint(options, config, checkpoint));
  }
  return {};
}

Status InspectCommand::run() const {
  std::string path = directory;
  if (path.empty()) {
    SLUICE_ASSIGN_OR_RETURN(path, bundled_model());
  }
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  SLUICE_ASSIGN_OR_RETURN(ModelConfig config, ModelConfig::load(path));
  config.block_global = block_global_of(resolved);
  SLUICE_RETURN_IF_ERROR(BlockAttention::check(config));
  const bool has_files = std::filesystem::exists(path + "/model.safetensors") ||
                         std::filesystem::exists(path + "/model.safetensors.index.json");
  SLUICE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, has_files ? Checkpoint::open(path, config)
                                                                 : Result<Checkpoint>(Checkpoint::random(0, config)));
  for (const TensorSpec& spec : required_tensors(config)) SLUICE_RETURN_IF_ERROR(checkpoint.expect(spec));
  ModelReport report = inspect(config, &checkpoint);
  // A format or device that does not run the model says nothing of what the model is.
  if (const Status predicted = add_memory(resolved, config, checkpoint, report); !predicted.ok())
    log_warn("memory: {}", predicted.message());
  std::cout << (json ? to_json(report) + "\n" : to_text(report)) << std::flush;
  return {};
}

}  // namespace

Action add_inspect(CLI::App& app) {
  auto command = std::make_shared<InspectCommand>();
  app.add_option("model", command->directory, "directory of the checkpoint; the bundled demo model if left out");
  std::vector<std::string> keys = attention_keys();
  for (const char* key : {"weights", "device", "threads", "context", "cache.dtype", "cache.memory_mib",
                          "scheduler.max_batch_tokens", "tp", "parallel.experts"})
    keys.emplace_back(key);
  command->options.add_to(app, keys);
  app.add_flag("--json", command->json, "print one JSON object");
  return [command] { return command->run(); };
}

}  // namespace sluice
