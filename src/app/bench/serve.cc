// `sluice bench serve`: a load on a server over gRPC, closed or open, at one level or several; latencies as clients see
// them, throughput, goodput, what the cache saved, how busy the server was. A row per level, and a chart over them.
#include <fstream>

#include "app/bench/bench.h"
#include "app/bench/child_server.h"
#include "app/bench/load_report.h"
#include "app/bench/output.h"
#include "app/bench/plot.h"
#include "app/bench/progress.h"
#include "app/bench/trace.h"
#include "app/commands.h"
#include "app/files.h"

namespace sluice {

namespace {

struct ServeBench {
  OptionFlags options;  // of a server of one's own
  BenchOutput output{{"load", "requests", "errors", "requests_per_second", "output_tokens_per_second", "ttft_ms.p50",
                      "ttft_ms.p99", "itl_ms.p50", "itl_ms.p99", "e2e_ms.p50", "goodput", "cached_percent",
                      "utilization"}};
  std::string target, workload = "mixed", svg_file;
  std::string prompt_lengths = "lognormal:128:1:16:1024", output_lengths = "lognormal:32:1:8:256";
  std::vector<double> rates;
  std::vector<int32_t> concurrencies;
  double burstiness = 1, scale = 1, speed = 1;
  int32_t requests = 100, prefixes = 4, prefix_tokens = 512, turns = 4;
  uint64_t seed = 1;
  Objectives objectives;

  Status run();
  Result<std::vector<Session>> sessions(const v1::Model& model, uint64_t level_idx) const;
  std::vector<double> arrivals(const std::vector<Session>& all, double rate) const;
  Result<nlohmann::ordered_json> measure(Client& client, const v1::Model& model, size_t level_idx);
  Status plot(const std::vector<nlohmann::ordered_json>& rows) const;
  bool is_trace() const { return workload.starts_with("trace:"); }
  size_t num_levels() const { return std::max<size_t>(1, rates.size() + concurrencies.size()); }
};

// Each level has other tokens, so that it finds nothing in the cache that the level before has left.
Result<std::vector<Session>> ServeBench::sessions(const v1::Model& model, uint64_t level_idx) const {
  std::vector<Session> result;
  if (is_trace()) {
    SLUICE_ASSIGN_OR_RETURN(result, read_trace(workload.substr(6), {.requests = requests,
                                                                    .scale = scale,
                                                                    .context_length = model.context_length(),
                                                                    .vocab_size = model.vocab_size(),
                                                                    .seed = seed + level_idx}));
    return result;
  }
  WorkloadOptions made{.requests = requests,
                       .prefixes = prefixes,
                       .prefix_tokens = prefix_tokens,
                       .turns = turns,
                       .vocab_size = model.vocab_size(),
                       .seed = seed + level_idx};
  SLUICE_ASSIGN_OR_RETURN(made.prompt, LengthDistribution::parse(prompt_lengths));
  SLUICE_ASSIGN_OR_RETURN(made.output, LengthDistribution::parse(output_lengths));
  SLUICE_ASSIGN_OR_RETURN(result, make_workload(workload, made));
  for (const Session& session : result)
    if (session.num_tokens() > model.context_length())
      return invalid_argument("prompt-tokens, output-tokens: a session of {} tokens exceeds the context of {}",
                              session.num_tokens(), model.context_length());
  return result;
}

// Of a rate, or the trace's own.
std::vector<double> ServeBench::arrivals(const std::vector<Session>& all, double rate) const {
  std::vector<double> times;
  if (rate <= 0) {
    for (const Session& session : all) times.push_back(session.arrival / speed);
    return times;
  }
  std::mt19937_64 random(seed);
  ArrivalGaps gaps(rate, burstiness);
  for (double time = 0; times.size() < all.size(); time += gaps.draw(random)) times.push_back(time);
  return times;
}

Result<nlohmann::ordered_json> ServeBench::measure(Client& client, const v1::Model& model, size_t level_idx) {
  SLUICE_ASSIGN_OR_RETURN(const std::vector<Session> all, sessions(model, level_idx));
  const bool is_closed = level_idx < concurrencies.size();
  const double rate = is_closed || rates.empty() ? 0 : rates[level_idx - concurrencies.size()];
  const std::string load = is_closed  ? fmt::format("concurrency {}", concurrencies[level_idx])
                           : rate > 0 ? fmt::format("rate {:g}", rate)
                                      : fmt::format("trace x{:g}", speed);
  int64_t done = 0, errors = 0;
  int64_t total = 0;
  for (const Session& session : all) total += std::ssize(session.turns);
  Status first_error;
  const TimePoint watched = std::chrono::steady_clock::now();
  SLUICE_ASSIGN_OR_RETURN(const v1::Server before, client.server());
  const TimePoint begin = std::chrono::steady_clock::now();
  std::vector<TurnRecord> records;
  {
    Progress progress(load, total);
    Load generator(client, all, [&](const TurnRecord& record) {
      ++done;
      if (!record.status.ok() && errors++ == 0) first_error = record.status;
      progress.show(done, fmt::format("{} errors", errors));
    });
    records = is_closed ? generator.run_closed(concurrencies[level_idx]) : generator.run_open(arrivals(all, rate));
  }
  const double wall = seconds(std::chrono::steady_clock::now() - begin);
  SLUICE_ASSIGN_OR_RETURN(const v1::Server after, client.server());
  // Of the time between the two looks at the server: a step ends after its last token has been read.
  const double utilization = (after.load().busy_seconds() - before.load().busy_seconds()) /
                             seconds(std::chrono::steady_clock::now() - watched);
  if (!first_error.ok())
    std::fprintf(stderr, "%s: the first error: %s\n", load.c_str(), first_error.to_string().c_str());
  const auto report = load_report(records, objectives, wall, utilization);
  nlohmann::ordered_json row = {{"workload", workload}, {"load", load}};
  row.update(report);
  const auto prompt_tokens = report["prompt_tokens"].get<double>();
  row["cached_percent"] = prompt_tokens > 0 ? 100 * report["cached_prompt_tokens"].get<double>() / prompt_tokens : 0.0;
  row["model"] = model.name();
  row["weights"] = model.weights();
  row["device"] = model.device();
  return row;
}

// Latency against load; the load is what was asked for, or else (a trace) what was served.
Status ServeBench::plot(const std::vector<nlohmann::ordered_json>& rows) const {
  const bool is_closed = !concurrencies.empty();
  const std::string load = is_closed ? "requests at once" : "requests per second";
  PlotPanel first{.title = "time to the first token", .x_label = load, .y_label = "ms", .series = {}};
  PlotPanel gap{.title = "between tokens", .x_label = load, .y_label = "ms", .series = {}};
  for (const char* percent : {"p50", "p90", "p99"}) {
    PlotSeries first_series{percent, {}}, gap_series{percent, {}};
    for (size_t i = 0; i < rows.size(); ++i) {
      const double x = is_closed       ? concurrencies[i]
                       : rates.empty() ? rows[i]["requests_per_second"].get<double>()
                                       : rates[i];
      if (const auto& value = rows[i]["ttft_ms"][percent]; value.is_number())
        first_series.points.emplace_back(x, value);
      if (const auto& value = rows[i]["itl_ms"][percent]; value.is_number()) gap_series.points.emplace_back(x, value);
    }
    first.series.push_back(std::move(first_series));
    gap.series.push_back(std::move(gap_series));
  }
  std::ofstream file(svg_file);
  file << to_svg({first, gap});
  if (!file.flush()) return not_found("svg: {} cannot be written", svg_file);
  return {};
}

Status ServeBench::run() {
  if (!rates.empty() && !concurrencies.empty())
    return invalid_argument("rate, concurrency: one or the other, an open or a closed loop");
  if (rates.empty() && concurrencies.empty() && !is_trace()) concurrencies = {8};
  SLUICE_RETURN_IF_ERROR(output.open());
  std::unique_ptr<ChildServer> own;
  if (target.empty()) {
    SLUICE_RETURN_IF_ERROR(options.resolve().status());
    SLUICE_ASSIGN_OR_RETURN(own, ChildServer::start(options.arguments()));
  }
  SLUICE_ASSIGN_OR_RETURN(Client client, Client::connect(own ? own->address() : target));
  SLUICE_ASSIGN_OR_RETURN(const v1::Model model, client.model());
  catch_interrupts();
  std::vector<nlohmann::ordered_json> rows;
  for (size_t level_idx = 0; level_idx < num_levels() && !interrupted(); ++level_idx) {
    SLUICE_ASSIGN_OR_RETURN(const nlohmann::ordered_json row, measure(client, model, level_idx));
    output.row(row);
    rows.push_back(row);
  }
  return svg_file.empty() ? Status() : plot(rows);
}

// All of a server's options but its addresses: ChildServer chooses those.
std::vector<std::string> server_keys() {
  std::vector<std::string> keys;
  for (const OptionSpec& spec : option_table())
    if (const std::string key = spec.key; key != "grpc" && key != "http") keys.push_back(key);
  return keys;
}

void add_load_flags(CLI::App& app, ServeBench& bench) {
  app.add_option("--workload", bench.workload,
                 "mixed, shared-prefix, chat, or trace:FILE (.jsonl of Mooncake, .csv of Azure)")
      ->capture_default_str();
  app.add_option("--concurrency", bench.concurrencies,
                 "closed loop: sessions at once; several levels make several rows")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096));
  app.add_option("--rate", bench.rates, "open loop: sessions per second; several levels make several rows")
      ->delimiter(',')
      ->check(CLI::Range(1e-3, 1e6));
  app.add_option("--burstiness", bench.burstiness, "of the open loop: 1 is Poisson, less is burstier")
      ->check(CLI::Range(0.01, 100.0))
      ->capture_default_str();
  app.add_option("--requests", bench.requests, "requests of each level; of a trace its first ones")
      ->check(CLI::Range(1, 10'000'000))
      ->capture_default_str();
  app.add_option("--prompt-tokens", bench.prompt_lengths, "N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA:LOW:HIGH")
      ->capture_default_str();
  app.add_option("--output-tokens", bench.output_lengths, "in the same forms")->capture_default_str();
  app.add_option("--prefixes", bench.prefixes, "shared-prefix: how many")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  app.add_option("--prefix-tokens", bench.prefix_tokens, "shared-prefix: of each")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--turns", bench.turns, "chat: of a session")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--scale", bench.scale, "trace: of all lengths")
      ->check(CLI::Range(1e-4, 100.0))
      ->capture_default_str();
  app.add_option("--speed", bench.speed, "trace without a rate: its times pass so many times faster")
      ->check(CLI::Range(1e-3, 1e6))
      ->capture_default_str();
  app.add_option("--seed", bench.seed, "of tokens, lengths and arrivals")->capture_default_str();
}

}  // namespace

Action add_bench_serve(CLI::App& app) {
  auto command = std::make_shared<ServeBench>();
  app.add_option("--target,-t", command->target, "HOST:PORT of a server; else one is started with the flags below");
  add_load_flags(app, *command);
  app.add_option("--slo-ttft-ms", command->objectives.ttft_ms, "goodput: first token within")->capture_default_str();
  app.add_option("--slo-itl-ms", command->objectives.itl_ms, "goodput: mean gap between tokens within")
      ->capture_default_str();
  app.add_option("--svg", command->svg_file, "draw latency against load into this file")->type_name("FILE");
  command->output.add_to(app);
  command->options.add_to(app, server_keys());
  return [command] { return command->run(); };
}

}  // namespace sluice
