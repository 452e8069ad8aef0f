// `sluice bench engine`: tokens per second of prefill (pp) and decode (tg), as llama-bench and llama-batched-bench
// define them: pp N is N prompt tokens of each sequence, tg N is N steps of one token each, random tokens, one warm-up
// run that is not counted, then the median of some. Beside each figure stands what the machine could do at most,
// measured just before it. With several ranks stands there instead how long each of them computed, communicated and
// waited for others in a step (timed_communicator.h).
#include <array>

#include "app/bench/bench.h"
#include "app/bench/cell.h"
#include "app/bench/noise.h"
#include "app/bench/output.h"
#include "app/bench/statistics.h"
#include "app/bench/traffic.h"
#include "app/commands.h"
#include "app/rank_processes.h"
#include "base/machine_bounds.h"

namespace sluice {

namespace {

struct EngineBench {
  OptionFlags options;
  BenchOutput output{{"test", "depth", "batch", "tokens_per_second", "step_ms", "compute_ms", "communication_ms",
                      "wait_ms", "gb_per_second", "gop_per_second", "percent_of_bound", "bound", "foreign_cpus",
                      "note"}};
  std::vector<int32_t> prefill_tokens{512}, decode_tokens{128}, depths{0}, batches{1};
  int32_t repeat = 5;
  uint64_t seed = 1;

  Status run();
  std::vector<Cell> cells() const;
  Status measure(const Cell& cell, const LoadedModel& loaded, CellRunner& runner, BoundMeter& meter,
                 TimedCommunicator* timed);
};

// The least time that a run can take here, and why: reading every needed weight and latent once, or the arithmetic of
// the weights at the widest instructions' rate. Attention's own arithmetic is not counted.
struct Floor {
  double gigabytes = 0;
  double gigaoperations = 0;
  double seconds = 0;
  const char* bound = "";
};

Floor floor_of(const Cell& cell, const CellRun& run, const LoadedModel& loaded, const MachineBounds& bounds) {
  const WeightFormat weights = loaded.model->weights();
  const WeightTraffic traffic = weight_traffic(loaded.config, weights);
  Floor floor;
  floor.gigabytes = 1e-9 * static_cast<double>(run.steps * traffic.dense_bytes + run.experts * traffic.expert_bytes +
                                               run.cached_positions * loaded.model->kv_layout().bytes_per_token());
  const int64_t tokens = int64_t{cell.batch} * cell.tokens;
  const int64_t heads = cell.kind == CellKind::kPrefill ? cell.batch : tokens;
  floor.gigaoperations =
      1e-9 * static_cast<double>(tokens * traffic.token_operations + heads * traffic.head_operations);
  const bool integer = weights != WeightFormat::kF32 && weights != WeightFormat::kBF16;
  const double read_seconds = floor.gigabytes / bounds.read_gb_per_second;
  const double compute_seconds =
      floor.gigaoperations / (integer ? bounds.int8_gop_per_second : bounds.f32_gop_per_second);
  floor.seconds = std::max(read_seconds, compute_seconds);
  floor.bound = read_seconds >= compute_seconds ? "read" : integer ? "int8" : "f32";
  return floor;
}

std::vector<Cell> EngineBench::cells() const {
  std::vector<Cell> result;
  const auto add = [&](CellKind kind, const std::vector<int32_t>& counts) {
    for (int32_t tokens : counts)
      for (int32_t depth : depths)
        for (int32_t batch : batches)
          if (tokens > 0) result.push_back({.kind = kind, .tokens = tokens, .depth = depth, .batch = batch});
  };
  add(CellKind::kPrefill, prefill_tokens);
  add(CellKind::kDecode, decode_tokens);
  return result;
}

// Into the row: rank 0's times beside the table's other figures, the others' under their names.
// values [ranks, 3]; null before they are known.
void put_splits(const std::vector<nlohmann::ordered_json>& values, nlohmann::ordered_json& row) {
  row["ranks"] = values.size() / 3;
  for (size_t i = 0; i < values.size(); ++i) {
    nlohmann::ordered_json& into = i < 3 ? row : row[fmt::format("rank{}", i / 3)];
    into[std::array{"compute_ms", "communication_ms", "wait_ms"}[i % 3]] = values[i];
  }
}

// Where the time of a step went on each rank; all of them are asked.
Status add_splits(const CellRun& run, TimedCommunicator& timed, nlohmann::ordered_json& row) {
  SLUICE_RETURN_IF_ERROR(send_message(timed, encode(RankMessage::kTimes)));
  SLUICE_ASSIGN_OR_RETURN(const auto times, timed.collect());
  const double step = 1e3 / static_cast<double>(run.steps);
  std::vector<nlohmann::ordered_json> values;
  for (const TimeSplit& split : split_time(times, run.first_operation, run.last_operation, run.seconds))
    for (const double part : {split.compute, split.communication, split.wait}) values.emplace_back(part * step);
  put_splits(values, row);
  return {};
}

Status EngineBench::measure(const Cell& cell, const LoadedModel& loaded, CellRunner& runner, BoundMeter& meter,
                            TimedCommunicator* timed) {
  nlohmann::ordered_json row = {{"test", cell.name()},
                                {"depth", cell.depth},
                                {"batch", cell.batch},
                                {"tokens_per_second", {}},
                                {"lowest", {}},
                                {"highest", {}},
                                {"step_ms", {}},
                                {"gb_per_second", {}},
                                {"gop_per_second", {}},
                                {"percent_of_bound", {}},
                                {"bound", {}},
                                {"read_bound_gb_per_second", {}},
                                {"int8_bound_gop_per_second", {}},
                                {"f32_bound_gop_per_second", {}},
                                {"foreign_cpus", {}},
                                {"weights", loaded.info.weights},
                                {"cache", loaded.cache_name()},
                                {"threads", loaded.team->size()},
                                {"device", loaded.backend->name}};
  if (timed) put_splits(std::vector<nlohmann::ordered_json>(static_cast<size_t>(timed->size()) * 3), row);
  row["note"] = runner.misfit(cell);
  if (!row["note"].get<std::string>().empty()) {
    output.row(row);
    return {};
  }
  const MachineBounds before = meter.measure();
  runner.run(cell);  // warm-up: page faults, cold caches
  std::vector<double> rates;
  std::vector<CellRun> runs;
  const NoiseMeter noise;
  for (int32_t i = 0; i < repeat; ++i) {
    runs.push_back(runner.run(cell));
    rates.push_back(static_cast<double>(cell.batch) * cell.tokens / runs.back().seconds);
  }
  if (!timed) row["foreign_cpus"] = noise.foreign_cpus();  // which would count the other ranks
  const MachineBounds bounds = best_of(before, meter.measure());
  std::sort(runs.begin(), runs.end(), [](const CellRun& a, const CellRun& b) { return a.seconds < b.seconds; });
  const CellRun& middle = runs[runs.size() / 2];
  const Floor floor = floor_of(cell, middle, loaded, bounds);
  row["tokens_per_second"] = median(rates);
  row["lowest"] = *std::min_element(rates.begin(), rates.end());
  row["highest"] = *std::max_element(rates.begin(), rates.end());
  row["step_ms"] = middle.seconds * 1e3 / static_cast<double>(middle.steps);
  row["gb_per_second"] = floor.gigabytes / middle.seconds;
  row["gop_per_second"] = floor.gigaoperations / middle.seconds;
  // The bounds are what this rank's threads reach, the traffic is that of all ranks.
  if (!timed) {
    row["percent_of_bound"] = floor.seconds / middle.seconds * 100;
    row["bound"] = floor.bound;
  } else {
    SLUICE_RETURN_IF_ERROR(add_splits(middle, *timed, row));
  }
  row["read_bound_gb_per_second"] = bounds.read_gb_per_second;
  row["int8_bound_gop_per_second"] = bounds.int8_gop_per_second;
  row["f32_bound_gop_per_second"] = bounds.f32_gop_per_second;
  output.row(row);
  return {};
}

Status EngineBench::run() {
  SLUICE_ASSIGN_OR_RETURN(Options resolved, options.resolve());
  SLUICE_ASSIGN_OR_RETURN(const Launch launch, read_launch(resolved.tp));
  if (!launch.is_rank) return run_rank_processes(launch, false);
  if (launch.leads()) SLUICE_RETURN_IF_ERROR(output.open());
  std::optional<TimedCommunicator> timed;  // outlives the model, which says the end by it
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  if (launch.size > 1) loaded->model->join(timed.emplace(loaded->group->ranks()));
  if (!loaded->leads()) return follow(*loaded, resolved, [&] { return timed->collect().status(); });
  SLUICE_RETURN_IF_ERROR(loaded->expect_cpu("bench engine"));
  TimedCommunicator* const ranks = timed ? &*timed : nullptr;
  CellRunner runner(*loaded, seed, ranks);
  BoundMeter meter(*loaded->team);
  for (const Cell& cell : cells()) SLUICE_RETURN_IF_ERROR(measure(cell, *loaded, runner, meter, ranks));
  return {};
}

}  // namespace

Action add_bench_engine(CLI::App& app) {
  auto command = std::make_shared<EngineBench>();
  command->options.add_to(app, rank_keys());
  const auto numbers = [&](const char* flag, std::vector<int32_t>& target, int low, const char* help) {
    app.add_option(flag, target, help)->delimiter(',')->check(CLI::Range(low, 1 << 22))->capture_default_str();
  };
  numbers("--pp", command->prefill_tokens, 0, "prompt tokens of each sequence; 0 leaves prefill out");
  numbers("--tg", command->decode_tokens, 0, "tokens generated by each sequence; 0 leaves decode out");
  numbers("--depth", command->depths, 0, "positions in the cache before them");
  numbers("--batch", command->batches, 1, "sequences side by side");
  app.add_option("--repeat", command->repeat, "measured runs of a cell; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seed", command->seed, "of the random tokens")->capture_default_str();
  command->output.add_to(app);
  return [command] { return command->run(); };
}

}  // namespace sluice
