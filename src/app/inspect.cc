// `sluice inspect DIR`: what a model is and costs, before anything is loaded.
#include "model/inspect.h"

#include <filesystem>
#include <iostream>

#include "app/commands.h"
#include "app/loaded_model.h"

namespace sluice {

namespace {

struct InspectCommand {
  OptionFlags options;
  std::string directory;
  bool json = false;

  Status run() const;
};

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
  ModelReport report = inspect(config);
  if (has_files) {
    SLUICE_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::open(path, config));
    for (const TensorSpec& spec : required_tensors(config))
      SLUICE_RETURN_IF_ERROR(checkpoint.expect(spec));
    report = inspect(config, &checkpoint);
  }
  std::cout << (json ? to_json(report) + "\n" : to_text(report)) << std::flush;
  return {};
}

}  // namespace

Action add_inspect(CLI::App& app) {
  auto command = std::make_shared<InspectCommand>();
  app.add_option("model", command->directory, "directory of the checkpoint; the bundled demo model if left out");
  command->options.add_to(app, attention_keys());
  app.add_flag("--json", command->json, "print one JSON object");
  return [command] { return command->run(); };
}

}  // namespace sluice
