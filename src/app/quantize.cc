// `sluice quantize IN OUT`: writes a checkpoint in 4 or 8 bits, in the layout that other engines read.
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "sluice/quantize.h"
#include "sluice/thread_team.h"

#include "app/calibration.h"
#include "app/commands.h"
#include "app/files.h"
#include "app/model_fingerprint.h"
#include "app/progress_bar.h"
#include "model/json_fields.h"
#include "model/quantize_checkpoint.h"

namespace sluice {

namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

struct QuantizeCommand {
  std::string input, output;
  std::string weights = "int4-g32";
  std::optional<uint64_t> random_weights;
  std::string calibrate;  // a text file, or empty
  std::string device = "auto";
  bool keep_head = false;
  int32_t threads = 0;
  int64_t shard_mib = 2048;
  bool json = false;

  Status run() const;
  Status copy_companions() const;
};

// Tokenizer, templates and generation defaults go along; weights and what speaks of them do not.
Status QuantizeCommand::copy_companions() const {
  std::error_code error;
  fs::create_directories(output, error);
  if (error) return failed_precondition("{}: cannot be created: {}", output, error.message());
  for (const auto& entry : fs::directory_iterator(input, error)) {
    const fs::path& path = entry.path();
    const std::string file = path.filename().string(), extension = path.extension().string();
    const bool text = extension == ".json" || extension == ".jinja" || extension == ".txt" || extension == ".md" ||
                      extension == ".model" || file == "LICENSE";
    if (!text || file == "config.json" || file.ends_with(".index.json") || !entry.is_regular_file()) continue;
    fs::copy_file(path, fs::path(output) / file, fs::copy_options::overwrite_existing, error);
    if (error) return failed_precondition("{}: cannot be copied to {}: {}", path.string(), output, error.message());
  }
  return {};
}

Status QuantizeCommand::run() const {
  SLUICE_ASSIGN_OR_RETURN(const WeightFormat format, parse_weight_format(weights));
  if (!is_quantized(format))
    return invalid_argument("weights: expected int8 or one of the int4 formats, found {}", weights);
  std::error_code ignored;  // then they are not the same
  if (fs::equivalent(input, output, ignored))
    return invalid_argument("OUT: expected another directory than IN, found {}", output);
  SLUICE_ASSIGN_OR_RETURN(const std::string config_json, read_small_file(input + "/config.json", kMaxConfigBytes));
  SLUICE_ASSIGN_OR_RETURN(const ModelConfig config, ModelConfig::parse(config_json, input + "/config.json"));
  SLUICE_ASSIGN_OR_RETURN(const Checkpoint source, random_weights
                                                       ? Result<Checkpoint>(Checkpoint::random(*random_weights, config))
                                                       : Checkpoint::open(input, config));
  std::string text;
  if (!calibrate.empty()) {
    SLUICE_ASSIGN_OR_RETURN(text, read_file(calibrate));
  }
  SLUICE_ASSIGN_OR_RETURN(
      const uint64_t made_from,
      model_fingerprint(input, fmt::format("{}{}{}", weights, keep_head ? " head kept" : "", text), random_weights));
  SLUICE_RETURN_IF_ERROR(copy_companions());
  ThreadTeam team(threads > 0 ? threads : ThreadTeam::available_cpus());
  std::unique_ptr<Calibration> calibration;
  if (!calibrate.empty()) {
    SLUICE_ASSIGN_OR_RETURN(calibration, Calibration::open(input, config, source, device, team, text));
  }
  const auto factor = [&](const TensorSpec& tensor) {
    return calibration ? calibration->factor(tensor.name, tensor.shape[1]) : std::vector<float>();
  };
  QuantizeReport report;
  {
    std::optional<ProgressBar> bar;
    const auto progress = [&](int64_t done, int64_t total) {  // weights, twice; of BF16 that is their bytes
      if (!bar) bar.emplace("quantizing", total);
      bar->show(done);
    };
    SLUICE_ASSIGN_OR_RETURN(report, quantize_checkpoint(source, config, config_json, output, team,
                                                        {.weights = format,
                                                         .keep_head = keep_head,
                                                         .shard_bytes = shard_mib << 20,
                                                         .made_from = fmt::format("{:016x}", made_from),
                                                         .factor = factor,
                                                         .progress = progress}));
  }
  if (json) {
    const nlohmann::ordered_json answer = {{"bytes_in", report.bytes_in},
                                           {"bytes_out", report.bytes_out},
                                           {"relative_error", report.relative_error},
                                           {"quantized_bytes_in", report.quantized_bytes_in},
                                           {"quantized_bytes_out", report.quantized_bytes_out},
                                           {"shards", report.shards},
                                           {"shards_kept", report.shards_kept}};
    std::cout << answer.dump() << std::endl;
  } else {
    std::cout << fmt::format("{}: {} of {} bytes ({:.1f} %), relative error of the quantised weights {:.4f}", output,
                             report.bytes_out, report.bytes_in,
                             100.0 * static_cast<double>(report.bytes_out) / static_cast<double>(report.bytes_in),
                             report.relative_error)
              << std::endl;
  }
  return {};
}

}  // namespace

Action add_quantize(CLI::App& app) {
  auto command = std::make_shared<QuantizeCommand>();
  app.add_option("in", command->input, "directory of the checkpoint")->required();
  app.add_option("out", command->output, "directory to write, new or of an interrupted run")->required();
  app.add_option("--weights", command->weights, "int8, int4-g32, int4-g64, int4-g128, or int4-g32z and so on [int4-g32]");
  app.add_flag("--keep-head", command->keep_head, "leave lm_head in BF16 (some engines cannot read it quantised)");
  app.add_option("--calibrate", command->calibrate,
                 "a text like those the model will see: rounding errors are made good on it (runs the original model)");
  app.add_option("--device", command->device, "for --calibrate: where the original runs [auto]");
  app.add_option("--random-weights", command->random_weights, "seed: take random weights for IN's config.json");
  app.add_option("--threads", command->threads, "0 takes every CPU this process may use [0]")->check(CLI::Range(0, 1024));
  app.add_option("--shard-mib", command->shard_mib, "size of a file, in MiB [2048]")->check(CLI::Range(1, 1 << 20));
  app.add_flag("--json", command->json, "print one JSON object");
  return [command] { return command->run(); };
}

}  // namespace sluice
