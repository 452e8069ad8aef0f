// `sluice bench batching`: the same requests, all waiting from the beginning, through the same engine under continuous
// batching and under the two forms of static batching (nobody is admitted until all of the batch have ended; rows of
// ended answers are dropped, or computed until then as engines with a fixed batch do).
#include "app/bench/bench.h"
#include "app/bench/core_run.h"
#include "app/bench/distribution.h"
#include "app/bench/noise.h"
#include "app/bench/output.h"
#include "app/bench/statistics.h"
#include "app/commands.h"

namespace sluice {

namespace {

struct Form {
  const char* name;
  bool is_static = false, keeps_rows = false;
};
constexpr Form kForms[] = {{"continuous"}, {"static, rows dropped", true}, {"static, rows kept", true, true}};

struct BatchingBench {
  OptionFlags options;
  BenchOutput output{{"form", "tokens_per_second", "seconds", "steps", "model_percent", "occupancy_percent",
                      "useful_rows_percent", "continuous_is_faster", "foreign_cpus"}};
  std::string lengths = "lognormal:32:1:8:256";
  int32_t batch = 16, num_requests = 128, prompt_tokens = 32, repeat = 1;
  uint64_t seed = 1;

  Status run();
  Result<std::vector<Request>> requests(int32_t vocab_size) const;
  CoreRunResult run_form(const Form& form, const std::vector<Request>& requests, LoadedModel& loaded) const;
  Status report(const Form& form, const CoreRunResult& run, const CoreRunResult& continuous, double foreign_cpus);
};

Result<std::vector<Request>> BatchingBench::requests(int32_t vocab_size) const {
  SLUICE_ASSIGN_OR_RETURN(const LengthDistribution distribution, LengthDistribution::parse(lengths));
  std::mt19937_64 random(seed);
  std::vector<Request> result(static_cast<size_t>(num_requests));
  for (Request& request : result) {
    for (int32_t i = 0; i < prompt_tokens; ++i)
      request.prompt.push_back(static_cast<TokenId>(random() % static_cast<uint64_t>(vocab_size)));
    request.sampling.temperature = 0;
    request.stop.max_tokens = distribution.draw(random);
    request.stop.ignore_eos = true;
  }
  return result;
}

CoreRunResult BatchingBench::run_form(const Form& form, const std::vector<Request>& requests,
                                      LoadedModel& loaded) const {
  const SchedulerOptions scheduler = {.max_batch_tokens = static_cast<int32_t>(loaded.model->max_batch_tokens()),
                                      .max_running = batch,
                                      .context_length = loaded.info.context_length,
                                      .static_batching = form.is_static,
                                      .keep_finished_rows = form.keeps_rows};
  return CoreRun(loaded, scheduler,
                 {.num_pages = loaded.num_pages, .rewindable = loaded.model->kv_layout().rewindable()})
      .run(requests, requests.size());
}

Status BatchingBench::report(const Form& form, const CoreRunResult& run, const CoreRunResult& continuous,
                             double foreign_cpus) {
  for (size_t i = 0; i < run.answers.size(); ++i) {
    SLUICE_RETURN_IF_ERROR(run.answers[i].error.with_context(fmt::format("request {}", i)));
    if (run.answers[i].tokens != continuous.answers[i].tokens)
      return internal_error("{}: the answer to request {} differs from continuous batching's", form.name, i);
  }
  const auto generated = static_cast<double>(run.scheduler.generated_tokens);
  // Every prompt row is wanted, and every generated token but the last one is fed back once.
  const double wanted = static_cast<double>(run.scheduler.prompt_tokens) + generated - num_requests;
  output.row({{"form", form.name},
              {"tokens_per_second", generated / run.wall_seconds},
              {"seconds", run.wall_seconds},
              {"steps", run.scheduler.steps},
              {"model_percent", 100 * run.model_seconds / run.wall_seconds},
              {"occupancy_percent", 100 * generated / static_cast<double>(run.scheduler.steps * batch)},
              {"useful_rows_percent", 100 * wanted / static_cast<double>(run.rows)},
              {"continuous_is_faster", run.wall_seconds / continuous.wall_seconds},
              {"foreign_cpus", foreign_cpus},
              {"requests", num_requests},
              {"batch", batch},
              {"prompt_tokens", prompt_tokens},
              {"lengths", lengths},
              {"generated_tokens", run.scheduler.generated_tokens}});
  return {};
}

Status BatchingBench::run() {
  SLUICE_ASSIGN_OR_RETURN(const Options resolved, options.resolve());
  SLUICE_RETURN_IF_ERROR(output.open());
  SLUICE_ASSIGN_OR_RETURN(const auto loaded, LoadedModel::load(resolved));
  SLUICE_RETURN_IF_ERROR(loaded->expect_cpu("bench batching"));
  SLUICE_ASSIGN_OR_RETURN(const std::vector<Request> all, requests(loaded->info.vocab_size));
  const std::vector<Request> few(all.begin(), all.begin() + std::min<std::ptrdiff_t>(batch, num_requests));
  run_form(kForms[0], few, *loaded);  // warm-up
  CoreRunResult continuous;
  for (const Form& form : kForms) {
    const NoiseMeter noise;
    std::vector<CoreRunResult> runs;
    for (int32_t i = 0; i < repeat; ++i) runs.push_back(run_form(form, all, *loaded));
    const double foreign_cpus = noise.foreign_cpus();
    std::sort(runs.begin(), runs.end(),
              [](const CoreRunResult& a, const CoreRunResult& b) { return a.wall_seconds < b.wall_seconds; });
    CoreRunResult& middle = runs[runs.size() / 2];
    if (!form.is_static) continuous = middle;
    SLUICE_RETURN_IF_ERROR(report(form, middle, continuous, foreign_cpus));
  }
  return {};
}

}  // namespace

Action add_bench_batching(CLI::App& app) {
  auto command = std::make_shared<BatchingBench>();
  command->options.add_to(app, offline_keys());
  app.add_option("--batch", command->batch, "sequences at once")->check(CLI::Range(1, 1024))->capture_default_str();
  app.add_option("--requests", command->num_requests, "requests, all waiting from the beginning")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--prompt-tokens", command->prompt_tokens, "of each request")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--lengths", command->lengths, "of answers: N, uniform:LOW:HIGH or lognormal:MEDIAN:SIGMA:LOW:HIGH")
      ->capture_default_str();
  app.add_option("--repeat", command->repeat, "runs of each form; the median counts")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--seed", command->seed, "of prompts and lengths")->capture_default_str();
  command->output.add_to(app);
  return [command] { return command->run(); };
}

}  // namespace sluice
