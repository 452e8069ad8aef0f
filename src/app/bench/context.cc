// `sluice bench context`: what a token costs behind a long context, in full attention and with block attention: time
// per prompt token and per generated token, the cache's memory, and in the same row what a trained model's perplexity
// becomes at the same share of the pages. Speed without quality is not printed.
#include <fstream>

#include "app/bench/bench.h"
#include "app/bench/cell.h"
#include "app/bench/noise.h"
#include "app/bench/output.h"
#include "app/bench/plot.h"
#include "app/bench/quality.h"
#include "app/bench/statistics.h"
#include "app/commands.h"

namespace sluice {

namespace {

// One way of attending: full, or block attention with every k-th layer full (0: none).
struct Mode {
  bool full = false;
  int32_t full_every = 0;

  std::string name() const {
    if (full) return "full";
    return full_every == 0 ? "block_global" : fmt::format("block_global, every {}th layer full", full_every);
  }
};

struct ContextBench {
  OptionFlags options;
  BenchOutput output{{"attention", "depth", "pages", "prompt_ms", "token_ms", "attention_ms", "cache_bytes_per_token",
                      "perplexity", "perplexity_change_percent", "quality_pages", "foreign_cpus", "note"}};
  std::vector<int32_t> depths{1024, 4096, 16384, 65536}, full_every{0, 4};
  int32_t prompt_tokens = 512, decode_tokens = 16, repeat = 3, window = 0;
  std::string text_file, quality_model, svg_file;
  uint64_t seed = 1;

  Status run();
  Status run_mode(const Mode& mode, Options resolved, QualityMeter& quality, std::vector<nlohmann::ordered_json>& rows);
  double milliseconds(CellRunner& runner, const Cell& cell) const;  // a token, the median
  Status add_quality(const BlockGlobalConfig& mode, int32_t depth, QualityMeter& quality, nlohmann::ordered_json& row);
  Status plot(const std::vector<nlohmann::ordered_json>& rows) const;
};

double ContextBench::milliseconds(CellRunner& runner, const Cell& cell) const {
  runner.run({.kind = cell.kind, .tokens = 1, .depth = cell.depth, .batch = 1});  // page faults, cold caches
  std::vector<double> times;
  for (int32_t i = 0; i < repeat; ++i) times.push_back(runner.run(cell).seconds * 1e3 / cell.tokens);
  return median(times);
}

Status ContextBench::add_quality(const BlockGlobalConfig& mode, int32_t depth, QualityMeter& quality,
                                 nlohmann::ordered_json& row) {
  SLUICE_ASSIGN_OR_RETURN(const double full, quality.perplexity(std::nullopt));
  BlockGlobalConfig same = mode;
  same.pages = pages_at_same_share(mode, depth / kPageTokens + 1, quality.context_pages());
  double found = full;
  if (mode.pages > 0 && same.pages < quality.context_pages()) {
    SLUICE_ASSIGN_OR_RETURN(found, quality.perplexity(same));
  }
  row["perplexity"] = found;
  row["perplexity_change_percent"] = 100 * (found / full - 1);
  row["quality_pages"] = same.pages;
  row["quality_context_pages"] = quality.context_pages();
  return {};
}

Status ContextBench::run_mode(const Mode& mode, Options resolved, QualityMeter& quality,
                              std::vector<nlohmann::ordered_json>& rows) {
  resolved.attention = mode.full ? "full" : "block_global";
  resolved.block_global_full_every = mode.full_every;
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  const BlockGlobalConfig chosen = loaded->config.block_global.value_or(
      BlockGlobalConfig{.pages = INT32_MAX, .sink_pages = 0, .window_pages = 1, .full_every = 0});
  const int64_t bytes_per_token = loaded->model->kv_layout().bytes_per_token();
  CellRunner runner(*loaded, seed);
  // What a token costs without a context: a step behind none, whose attention sees the step's own few positions.
  const double base =
      milliseconds(runner, {.kind = CellKind::kDecode, .tokens = decode_tokens, .depth = 0, .batch = 1});
  for (int32_t depth : depths) {
    const Cell decode{.kind = CellKind::kDecode, .tokens = decode_tokens, .depth = depth, .batch = 1};
    const Cell prefill{.kind = CellKind::kPrefill, .tokens = prompt_tokens, .depth = depth, .batch = 1};
    nlohmann::ordered_json row = {{"attention", mode.name()},
                                  {"depth", depth},
                                  {"pages", std::min(chosen.pages, depth / kPageTokens + 1)},
                                  {"prompt_ms", {}},
                                  {"token_ms", {}},
                                  {"attention_ms", {}},
                                  {"cache_bytes_per_token", bytes_per_token},
                                  {"cache_mib", static_cast<double>(bytes_per_token * depth) / (1 << 20)},
                                  {"perplexity", {}},
                                  {"perplexity_change_percent", {}},
                                  {"quality_pages", {}},
                                  {"quality_context_pages", {}},
                                  {"foreign_cpus", {}},
                                  {"weights", loaded->info.weights},
                                  {"cache", loaded->cache_name()},
                                  {"threads", loaded->team->size()},
                                  {"device", loaded->backend->name},
                                  {"note", runner.misfit(prompt_tokens > decode_tokens ? prefill : decode)}};
    if (row["note"].get<std::string>().empty()) {
      const NoiseMeter noise;
      row["token_ms"] = milliseconds(runner, decode);
      row["attention_ms"] = row["token_ms"].get<double>() - base;
      if (prompt_tokens > 0) row["prompt_ms"] = milliseconds(runner, prefill);
      row["foreign_cpus"] = noise.foreign_cpus();
    }
    SLUICE_RETURN_IF_ERROR(add_quality(chosen, depth, quality, row));
    output.row(row);
    rows.push_back(std::move(row));
  }
  return {};
}

// A series for each way of attending, which says the worst that it did to the perplexity.
Status ContextBench::plot(const std::vector<nlohmann::ordered_json>& rows) const {
  PlotPanel token{.title = "a generated token", .x_label = "positions before it", .y_label = "ms", .series = {}};
  PlotPanel prompt{.title = "a prompt token", .x_label = "positions before it", .y_label = "ms", .series = {}};
  std::vector<double> worst;
  for (const nlohmann::ordered_json& row : rows) {
    const auto attention = row["attention"].get<std::string>();
    if (token.series.empty() || token.series.back().name != attention) {
      token.series.push_back({attention, {}});
      prompt.series.push_back({attention, {}});
      worst.push_back(0);
    }
    if (const double change = row["perplexity_change_percent"]; std::abs(change) > std::abs(worst.back()))
      worst.back() = change;
    const double depth = row["depth"];
    if (row["token_ms"].is_number()) token.series.back().points.emplace_back(depth, row["token_ms"]);
    if (row["prompt_ms"].is_number()) prompt.series.back().points.emplace_back(depth, row["prompt_ms"]);
  }
  for (size_t i = 0; i < worst.size(); ++i)
    if (worst[i] != 0) token.series[i].name += fmt::format("; perplexity {:+.2f} %", worst[i]);
  std::ofstream file(svg_file);
  file << (prompt_tokens > 0 ? to_svg({token, prompt}) : to_svg({token}));
  if (!file.flush()) return not_found("svg: {} cannot be written", svg_file);
  return {};
}

Status ContextBench::run() {
  SLUICE_ASSIGN_OR_RETURN(Options resolved, options.resolve());
  SLUICE_ASSIGN_OR_RETURN(QualityMeter quality, QualityMeter::open(resolved, quality_model, text_file, window));
  SLUICE_RETURN_IF_ERROR(output.open());
  std::vector<Mode> modes = {{.full = true}};
  for (int32_t every : full_every) modes.push_back({.full_every = every});
  std::vector<nlohmann::ordered_json> rows;
  for (const Mode& mode : modes) SLUICE_RETURN_IF_ERROR(run_mode(mode, resolved, quality, rows));
  return svg_file.empty() ? Status() : plot(rows);
}

}  // namespace

Action add_bench_context(CLI::App& app) {
  auto command = std::make_shared<ContextBench>();
  std::vector<std::string> keys;
  for (const std::string& key : offline_keys())
    if (key != "attention" && key != "block_global.full_every") keys.push_back(key);
  command->options.add_to(app, keys);
  app.add_option("--depth", command->depths, "positions in the cache")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 22))
      ->capture_default_str();
  app.add_option("--full-every", command->full_every,
                 "block attention with every k-th layer full, 0 for none; a run each")
      ->delimiter(',')
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--pp", command->prompt_tokens, "prompt tokens behind the depth; 0 leaves them out")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  app.add_option("--tg", command->decode_tokens, "tokens generated behind the depth")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--repeat", command->repeat, "measured runs; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--text", command->text_file, "the text that quality is measured on")->required()->type_name("FILE");
  app.add_option("--quality-model", command->quality_model,
                 "directory of the trained model that reads it; the bundled one if left out");
  app.add_option("--window", command->window,
                 "tokens predicted from one beginning; 0: as many as that model's context holds")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--seed", command->seed, "of the random tokens")->capture_default_str();
  app.add_option("--svg", command->svg_file, "draw time against depth into this file")->type_name("FILE");
  command->output.add_to(app);
  return [command] { return command->run(); };
}

}  // namespace sluice
